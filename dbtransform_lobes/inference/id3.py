"""Tags of MP3 files, in any script.

libsndfile reads them, but what it writes is taken for Latin-1: it would spoil
every other letter. This writes ID3v2.4 (id3.org, "ID3 tag version 2.4.0 -
Native Frames", 2000): a header, then text frames in UTF-8.
"""

FRAMES = {
    "title": "TIT2",
    "copyright": "TCOP",
    "software": "TSSE",
    "artist": "TPE1",
    "comment": "COMM",
    "date": "TDRC",
    "album": "TALB",
    "tracknumber": "TRCK",
    "genre": "TCON",
}
UTF8 = b"\x03"


def id3_block(tags):
    """Return the bytes that go before the first MPEG frame.

    Arguments
    ---------
    tags : dict
        Text by soundfile's name of the tag; there is no frame for "license".

    Returns
    -------
    bytes

    Example
    -------
    >>> id3_block({"title": "a"})
    b'ID3\\x04\\x00\\x00\\x00\\x00\\x00\\x0cTIT2\\x00\\x00\\x00\\x02\\x00\\x00\\x03a'
    >>> id3_block({})
    b''
    """
    frames = b"".join(
        _frame(FRAMES[tag], text) for tag, text in tags.items() if tag in FRAMES
    )
    return (
        b"ID3\x04\x00\x00" + _syncsafe(len(frames)) + frames if frames else b""
    )


def _frame(name, text):
    content = text.encode("utf-8")
    if name == "COMM":
        content = b"und\x00" + content  # language, no description
    content = UTF8 + content
    return name.encode() + _syncsafe(len(content)) + b"\x00\x00" + content


def _syncsafe(number):
    """Four bytes of seven bits each."""
    return bytes((number >> shift) & 0x7F for shift in (21, 14, 7, 0))
