"""From loop nests to Triton: `generate` gives the text of a kernel, `offline.build` its machine
code.
"""
