"""Numbers of any number of bits, as the headers of video codecs have them."""


class Bits:
    """A position in a sequence of bits, most significant bit first.

    Args:
        content: Bytes that hold the bits.
    """

    def __init__(self, content: bytes | memoryview) -> None:
        self._content = content
        self._at = 0

    def number(self, count: int) -> int:
        """Return the next `count` bits as a number, at most 32.

        Raises:
            IndexError: There are fewer bits.
        """
        first, last = self._at // 8, (self._at + count + 7) // 8
        if last > len(self._content):
            raise IndexError("The header ends too early.")
        value = int.from_bytes(self._content[first:last], "big") >> (8 * last - self._at - count)
        self._at += count
        return value & (1 << count) - 1

    def flag(self) -> bool:
        """Return the next bit."""
        return self.number(1) == 1

    def exponential_golomb(self) -> int:
        """Return the next number of the unsigned exponential-Golomb code.

        Raises:
            IndexError: The code has more than 32 bits, or ends too early.
        """
        zeros = 0
        while not self.flag():
            zeros += 1
            if zeros > 31:
                raise IndexError("The code is too long.")
        return (1 << zeros) - 1 + self.number(zeros)
