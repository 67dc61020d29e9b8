"""Enhance a live stream: raw PCM from stdin to stdout.

examples:
  arecord -t raw -f S16_LE -r 16000 | dbtransform stream \\
      | aplay -t raw -f S16_LE -r 16000
  sox noisy.wav -t raw -r 16000 -c 1 -b 16 -e signed - \\
      | dbtransform stream > enhanced.raw
  ffmpeg -i noisy.mp3 -f f32le -ar 48000 -ac 2 - \\
      | dbtransform stream --rate 48000 --channels 2 --dtype f32 \\
      | ffplay -f f32le -ar 48000 -ac 2 -
"""

import os
import re
import signal
import sys
from functools import partial

from dbtransform_lobes.cli import options

HEADERS = re.compile(  # what audio files begin with
    rb"RIFF|RF64|RIFX|riff|fLaC|OggS|ID3|\xff.{8,64}(Xing|Info)|FORM|\.snd|"
    rb"caff|....ftyp|\x1aE\xdf\xa3|NIST_1A|Creative Voice|#!AMR|wvpk|"
    rb"0&\xb2u\x8ef\xcf\x11",
    re.DOTALL,
)


def add_arguments(parser):
    """Add the arguments of ``stream`` to its parser."""
    options.add_options(parser, *options.ENHANCING)
    parser.set_defaults(model="db_transform_streaming", threads=1)
    parser.add_argument(
        "--rate",
        metavar="HZ",
        type=int,
        default=16000,
        help="sample rate of the stream; another one than the model's is "
        "resampled, which adds latency (default 16000)",
    )
    parser.add_argument(
        "--dtype",
        choices=("s16", "s32", "f32"),
        default="s16",
        help="samples, little-endian: integers of 16 or 32 bits or floats "
        "(default s16)",
    )
    parser.add_argument(
        "--channels",
        metavar="N",
        type=int,
        default=1,
        help="interleaved channels, each enhanced on its own (default 1)",
    )


def run(args):
    """Enhance until the stream ends, is closed or is interrupted; 0 then."""
    loading = _check(args)
    from dbtransform_lobes.inference.pcm import enhance_pcm

    enhancer = _load(args, loading)
    _end_input_when_interrupted()
    write = partial(_write, sys.stdout.fileno())
    with open(sys.stdin.fileno(), "rb", closefd=False) as stdin:
        _refuse_files(stdin.peek())
        read, kind = stdin.read1, (args.channels, args.dtype)
        report = enhance_pcm(enhancer, read, write, *kind)
    print(_summary(report, args.rate), file=sys.stderr)
    return 0


def _check(args):
    for stream, what in ((sys.stdin, "come from"), (sys.stdout, "go to")):
        if stream is None or stream.isatty():
            end = "a closed stream" if stream is None else "the terminal"
            raise ValueError(
                f"raw samples would {what} {end}, expected a pipe or file; "
                "see dbtransform stream --help"
            )
    from dbtransform_lobes.inference.signal_path import check_sample_rate

    check_sample_rate(args.rate)
    return options.check_options(args)


def _load(args, loading):
    import numpy as np

    from dbtransform_lobes.inference.backend import load_enhancer

    model = load_enhancer(threads=args.threads, **loading)
    enhancer = model.stream(
        strength=args.strength,
        attenuation_limit_db=args.attenuation_limit,
        sample_rate=args.rate,
    )
    # The first frames take longer: they are not to be of the stream.
    for _ in range(5):
        enhancer.feed(np.zeros((enhancer.hop_length, args.channels)))
    enhancer.reset()
    return enhancer


def _end_input_when_interrupted():
    """Let Ctrl-C (or a SIGTERM) end stdin; the second time it is as ever."""

    def end(*_):
        """Finish what was read: whoever waits for more reads an end."""
        os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
        for number, handler in handlers.items():
            signal.signal(number, handler)

    handlers = {
        number: signal.signal(number, end)
        for number in (signal.SIGINT, signal.SIGTERM)
    }


def _refuse_files(data):
    """Refuse what begins as an audio file: samples have no header."""
    from dbtransform_lobes.inference.mpeg import begins_with_frames

    if HEADERS.match(data) or begins_with_frames(data):
        raise ValueError(
            "the input begins as an audio file, expected raw samples: enhance "
            "files by `dbtransform enhance`, or take the header off by `sox "
            "FILE -t raw -` or `ffmpeg -i FILE -f s16le -`"
        )


def _write(file, data):
    data = memoryview(data)
    while data:
        data = data[os.write(file, data) :]


def _summary(report, rate):
    if not report.blocks:
        return "nothing was read"
    duration = report.samples / rate
    lines = [
        f"{duration:.2f} s in {report.blocks} blocks: "
        f"{1000 * report.seconds / report.blocks:.1f} ms each, at most "
        f"{1000 * report.worst:.1f} ms, real-time factor "
        f"{report.seconds / max(duration, 1 / rate):.3f}",
        f"latency {1000 * report.latency:.0f} ms, underruns {report.underruns}",
    ]
    if report.repaired:
        lines.append(f"{report.repaired} samples were not finite, taken as 0")
    if report.lost:
        lines.append(
            f"the last {report.lost} bytes make no whole sample: see --dtype "
            "and --channels"
        )
    return "\n".join(lines)
