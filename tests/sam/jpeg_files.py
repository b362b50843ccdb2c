"""Parts of JPEG files, for kinds that Pillow does not write."""


def segment(marker, content):
    """Return a JPEG segment of metadata."""
    return bytes((255, marker)) + (len(content) + 2).to_bytes(2, "big") + content


def with_segments(data, *segments):
    """Return a JPEG file with segments at its start."""
    return data[:2] + b"".join(segments) + data[2:]
