"""Sans-I/O: bytes and values in, values out. Nothing here awaits, reads a clock or opens a socket."""
