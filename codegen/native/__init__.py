"""The native CPU generator: the same loop nests as LLVM code with explicit vectors."""
