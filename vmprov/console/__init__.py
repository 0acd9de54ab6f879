"""Serial consoles: every byte is kept by QEMU itself, and reading it disturbs nobody.

``tail`` reads the capture files, by any number of readers; ``text`` makes lines for people of what guests
send; ``attach`` is the one writer, by hand or by program.
"""
