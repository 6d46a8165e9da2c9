"""`tracejit cache`: look at the disk cache, check it, make room. None of it imports torch before a
command needs it."""
