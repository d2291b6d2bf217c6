"""Making scripts, each with an id of its own in its bytes."""

import os

PLACE = b"@@@@@@@@"


class Payload:
    """What a script consists of: `static`, `sh`, `print` (with bytes to print), `big` (with bytes to carry)."""

    def __init__(self, ground, kind="static", amount=0):
        log = ground.starts.path
        if kind == "sh":
            stamp = ground.tools.payload(["-DSTAMP"], log)
            self.bytes = f"#!/bin/sh\n{stamp} ".encode() + PLACE + b"\n"
            return
        shape = [f"-DPRINT={amount}L"] if kind == "print" else []
        with open(ground.tools.payload(shape, log), "rb") as file:
            self.bytes = file.read()
        if kind == "big":
            # Bytes that are not zero: no file system and no copier may leave them out.
            self.bytes += os.urandom(1 << 20) * (amount >> 20)

    def write(self, directory, number):
        """Writes the script of this number; its id."""
        identity = f"{number:08d}"
        file = os.open(f"{directory}/s{identity}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755)
        try:
            left = memoryview(self.bytes.replace(PLACE, identity.encode(), 1))
            while left:
                left = left[os.write(file, left) :]
        finally:
            os.close(file)
        return identity

    def write_many(self, directory, count, first=1):
        return [self.write(directory, number) for number in range(first, first + count)]
