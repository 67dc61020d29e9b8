"""Tags of audio files: title, artist, pictures and so on."""

import warnings

import mutagen
from mutagen import id3
from mutagen.mp3 import MP3

from dbtransform_lobes.data.headers import rare_chunks

# Names of soundfile, frames of ID3.
FRAMES = {
    "title": id3.TIT2,
    "copyright": id3.TCOP,
    "software": id3.TSSE,
    "artist": id3.TPE1,
    "comment": id3.COMM,
    "date": id3.TDRC,
    "album": id3.TALB,
    "tracknumber": id3.TRCK,
    "genre": id3.TCON,
}
TAGS = (*FRAMES, "license")


def id3_of(tags):
    """Return the ID3 block of tags by soundfile's names, all but "license"."""
    block = id3.ID3()
    for name, text in tags.items():
        if name in FRAMES:
            block.add(FRAMES[name](encoding=id3.Encoding.UTF8, text=[text]))
    return block


def copy_tags(source, target, container, tags):
    """Give a file the tags of another, or warn of those left out.

    Between files of one kind all are copied, pictures as well. Otherwise the
    target has what soundfile wrote into it, and an MP3, into which it writes
    Latin-1 only, gets ``tags``, those that it could read of the source.
    """
    if rare := rare_chunks(source):
        warnings.warn(
            f"{source}: {', '.join(rare)} of it are not carried over",
            stacklevel=2,
        )
    # Of a name without suffix mutagen does not know an MP3.
    reader = MP3 if container == "MP3" else mutagen.File
    given, made = _open(source), _open(target, reader)
    same = type(given) is type(made) and given is not None and given.tags
    if same and isinstance(given.tags, id3.ID3):
        given.tags.save(target)
    elif same:
        made.tags[:] = given.tags[:]
        for picture in getattr(given, "pictures", ()):
            made.add_picture(picture)
        made.save()
    else:
        if container == "MP3" and tags:
            id3_of(tags).save(target)
        names = given.tags.keys() if given and given.tags else ()
        left = len({name.lower() for name in names} - {"encoder"}) - len(tags)
        if left > 0:
            warnings.warn(
                f"{source}: {left} tags that soundfile does not know are not "
                f"carried over into {container}",
                stacklevel=2,
            )


def _open(path, reader=mutagen.File):
    """The file as mutagen sees it, None if it knows no tags of its kind."""
    try:
        return reader(path)
    except mutagen.MutagenError:
        return None
