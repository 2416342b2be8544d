"""Pictures of saved predictions: ``python -m reports.visualise predictions --out pictures [--animate] [--rerun]``.

Reads what ``python -m experiments.predict`` writes. A still a frame: the input images, below them the predicted and the
true voxels as each camera sees them, and both from behind and from above. ``--animate`` joins the frames of a scene to a
GIF, ``--rerun`` writes a recording for the rerun viewer. CPU only, no display.
"""

from __future__ import annotations

from camera_occupancy_bench.commandline import READING, finish, require

require(__name__, (*READING, "numba", "PIL", "matplotlib"))

from experiments import instructions

instructions.hold()  # before anything below loads numpy or torch

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.markup import escape

from camera_occupancy_bench.files import WriteError, replacing
from experiments.bars import Bar
from experiments.cell.figures import palette
from experiments.command import guarded
from experiments.predictions import PredictionFileError, SavedPrediction, load
from experiments.shell import program
from reports import voxel_view
from reports.summary import ReportError
from reports.voxel_view import Viewpoint

WIDTH = 1800  # pixels of a still
ANIMATION_WIDTH = 1100
_GAP = 6
_MARGIN = 26
# From the left to the right of the car, then behind it from the right to the left.
_ORDER = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def command(
    files: Annotated[list[Path], typer.Argument(help="npz files of experiments.predict, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures, made if need be.")],
    animate: Annotated[bool, typer.Option("--animate", help="Also a GIF a scene, in the order of the frames.")] = False,
    rerun: Annotated[bool, typer.Option("--rerun", help="Also a recording for the interactive viewer rerun.")] = False,
    fps: Annotated[float, typer.Option(min=0.1, max=50, help="Frames a second of an animation.")] = 2.0,
    against: Annotated[str | None, typer.Option(help="Row whose files, among those given, are shown beside the others'.")] = None,
    width: Annotated[int, typer.Option(min=600, max=6000, help="Width of a still in pixels.")] = WIDTH,
) -> int:
    """Draw predicted and true occupancy, per camera, from behind and from above, with the input images."""
    viewer = _rerun() if rerun else None
    paths = listed(files, apart=against is None)
    frames = [load(path) for path in paths]
    others: list[SavedPrediction | None] = [None] * len(frames)
    if against is not None:
        paths, frames, others = _paired(paths, frames, against)
    console = Console(highlight=False)
    absent = sum(not Path(path).is_file() for frame in frames for path in frame.image_paths)
    if absent:
        console.print(f"{absent} input images are not where they were; their places stay empty", soft_wrap=True)
    written = []
    bar = Bar(console, "drawing", len(paths))
    try:
        for path, frame, other in zip(paths, frames, others, strict=True):
            written.append(_written(out / f"{path.stem}.png", _still(frame, width, other)))
            bar.advance()
    finally:
        bar.close()
    beside = {id(frame): other for frame, other in zip(frames, others, strict=True)}
    for scene, members in by_scene(frames).items():
        if animate:
            console.print(escape(f"drawing the animation of {scene}, {len(members)} frames"), soft_wrap=True)
            pairs = [(frame, beside[id(frame)]) for frame in members]
            written.append(_written(out / f"{_file_name(scene)}.gif", _animation(pairs, fps)))
        if viewer is not None:
            recording = _written(out / f"{_file_name(scene)}.rrd", partial(record, viewer, members, scene))
            console.print(escape(f"look around in it: {program('rerun')} {recording}"), soft_wrap=True)
    for path in written:
        console.print(escape(f"wrote {path}"), soft_wrap=True)
    return 0


def listed(given: Sequence[Path], apart: bool) -> list[Path]:
    """The npz files that are named or lie in named folders, each once; raises PredictionFileError if there are none.

    apart  each becomes a picture of its own, named after it
    """
    found: list[Path] = []
    for path in given:
        inside = sorted(path.glob("*.npz")) if path.is_dir() else [path]
        if not inside:
            raise PredictionFileError(f"{path} holds no npz file; make some with `python -m experiments.predict`")
        found += inside
    names: dict[str, Path] = {}
    for path in dict.fromkeys(found):
        if apart and path.stem in names:
            raise PredictionFileError(
                f"{names[path.stem]} and {path} would give the same picture; draw them apart, or two rows with --against"
            )
        names[path.stem] = path
    return list(names.values() if apart else dict.fromkeys(found))


def row_of(frame: SavedPrediction) -> str:
    """The row that predicted a frame, by its source: "<table> <preset> <row>--<renderer>--seed<k>"."""
    return frame.source.split()[-1].partition("--")[0]


def _paired(
    paths: Sequence[Path], frames: Sequence[SavedPrediction], against: str
) -> tuple[list[Path], list[SavedPrediction], list[SavedPrediction | None]]:
    """The frames of another row than ``against`` with that row's prediction of each."""
    rows = list(dict.fromkeys(map(row_of, frames)))
    if against not in rows or len(rows) != 2:
        raise PredictionFileError(f"--against {against} needs files of that row and of one other; these are of {', '.join(rows)}")
    theirs = {frame.token: frame for frame in frames if row_of(frame) == against}
    kept = [(path, frame) for path, frame in zip(paths, frames, strict=True) if row_of(frame) != against]
    for path, frame in kept:
        if frame.token not in theirs or frame.grid != theirs[frame.token].grid:
            raise PredictionFileError(f"{path} has no counterpart of {against}; predict frame {frame.index} with that row too")
    return [path for path, _ in kept], [frame for _, frame in kept], [theirs[frame.token] for _, frame in kept]


def by_scene(frames: Sequence[SavedPrediction]) -> dict[str, list[SavedPrediction]]:
    """Frames in the order of their index, by scene and by what predicted them."""
    scenes: dict[str, list[SavedPrediction]] = {}
    for frame in sorted(frames, key=lambda frame: frame.index):
        scenes.setdefault(f"{frame.scene} {frame.source}", []).append(frame)
    return scenes


def _file_name(scene: str) -> str:
    return "".join(c if c.isalnum() or c in "-+._" else "_" for c in scene)


def _written(path: Path, write: Callable[[Path], Any]) -> Path:
    try:
        with replacing(path) as temporary:
            write(temporary)
    except WriteError as error:
        raise ReportError(f"{error} with --out") from error
    return path


@dataclass(frozen=True)
class _Panel:
    """A picture on the canvas: its left upper corner and what is drawn there."""

    left: int
    top: int
    picture: Image.Image


def compose(frame: SavedPrediction, width: int = WIDTH, other: SavedPrediction | None = None) -> Image.Image:
    """The still of a frame, ``width`` pixels wide; ``other`` is another row's prediction of it, to stand beside."""
    text, small = _font(width / 110), _font(width / 130)
    line = round(width / 70)
    margin, inner = _MARGIN * width // WIDTH, width - 2 * _MARGIN * width // WIDTH
    panels: list[_Panel] = []
    source = frame.source if other is None else f"{frame.source} and {other.source}"
    title = f"{source}, {frame.scene}, frame {frame.index}"
    words: list[tuple[int, int, str, Any]] = [(margin, margin // 2, title, text)]
    top = margin // 2 + line + _GAP
    for heading, pictures in _rows(frame, inner, other):
        words.append((margin, top, heading, small))
        top += line
        left = margin
        for picture in pictures:
            panels.append(_Panel(left, top, picture))
            left += picture.width + _GAP
        top += max(picture.height for picture in pictures) + _GAP
    shown = [frame.predicted, frame.true] + ([] if other is None else [other.predicted])
    legend = list(_legend(frame, shown, small, margin, top + _GAP, width - margin, line))
    height = (legend[-1][1] if legend else top) + 2 * line
    canvas = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(canvas)
    for panel in panels:
        canvas.paste(panel.picture, (panel.left, panel.top))
        right, bottom = panel.left + panel.picture.width, panel.top + panel.picture.height
        pen.rectangle((panel.left - 1, panel.top - 1, right, bottom), outline="#d0d0d0")
    for left, top, what, font in words:
        pen.text((left, top), what, fill="#202020", font=font)
    for left, top, name, colour in legend:
        pen.rectangle((left, top, left + line - 4, top + line - 4), fill=colour, outline="#808080")
        pen.text((left + line + 2, top - 1), name, fill="#202020", font=small)
    return canvas


def _rows(frame: SavedPrediction, inner: int, other: SavedPrediction | None) -> Iterator[tuple[str, list[Image.Image]]]:
    """Headings and the pictures below each, from the left, together ``inner`` pixels wide."""
    order = [frame.camera_names.index(name) for name in _ORDER if name in frame.camera_names]
    order = order if len(order) == len(frame.camera_names) else list(range(len(frame.camera_names)))
    columns = max(len(order), 3)
    each = (inner - (columns - 1) * _GAP) // columns
    answers = {"Predicted": frame.predicted, "True": frame.true}
    if other is not None:
        answers = {f"Predicted, {row_of(f)}": f.predicted for f in (frame, other)} | {"True": frame.true}
    if len(order) == 1:
        columns = max(columns, 1 + len(answers))
        each = (inner - (columns - 1) * _GAP) // columns
    shown = {"Input": [_input(frame, v, each) for v in order]}
    for name, labels in answers.items():
        shown[name] = [_seen(frame, labels, _camera(frame, v, each)) for v in order]
    for pictures in shown.values():
        for v, picture in zip(order, pictures, strict=True):
            _name(picture, frame.camera_names[v])
    if len(order) == 1:
        yield " - ".join(shown), [pictures[0] for pictures in shown.values()]
    else:
        yield from shown.items()
    grid = frame.grid
    # Beside the square from above, the view from behind is 1.5 times as wide as high.
    square = voxel_view.from_above(grid, 1000)
    pairs = len(answers)
    height = round((inner - (2 * pairs - 1) * _GAP) / (pairs * (1.5 + square.width / square.height)))
    behind = voxel_view.from_behind(grid, round(1.5 * height), height)
    above = voxel_view.from_above(grid, round(height * square.width / square.height))
    views = []
    for labels in answers.values():
        views += [_seen(frame, labels, behind), _with_car(_seen(frame, labels, above), frame, above)]
    yield f"{', '.join(answers)}, from the left: each from behind and from above; the triangle is the car", views


def _name(picture: Image.Image, camera: str) -> None:
    """Write a camera's name into the picture's corner."""
    pen, font = ImageDraw.Draw(picture), _font(picture.width / 22)
    left, top, right, bottom = pen.textbbox((5, 3), camera, font=font)
    pen.rectangle((left - 3, top - 2, right + 3, bottom + 2), fill="#202020")
    pen.text((5, 3), camera, fill="white", font=font)


def _camera(frame: SavedPrediction, view: int, width: int) -> Viewpoint:
    camera = Viewpoint(frame.intrinsics[view], frame.reference_to_camera[view], *frame.camera_size)
    return camera.scaled(width)


def _seen(frame: SavedPrediction, labels: NDArray[np.uint8], view: Viewpoint) -> Image.Image:
    # As in the image metrics, nothing is said about voxels whose truth is unknown.
    known = np.where(frame.true == frame.grid.ignore, frame.grid.ignore, labels)
    return Image.fromarray(voxel_view.draw(known, frame.grid, view))


def _with_car(picture: Image.Image, frame: SavedPrediction, view: Viewpoint) -> Image.Image:
    """A triangle at the origin that points forward."""
    forward = voxel_view.ahead(frame.grid)
    left = np.array([-forward[1], forward[0], 0.0])
    corners = view.project(np.stack([3.5 * forward, 1.8 * left - 1.5 * forward, -1.8 * left - 1.5 * forward]))
    ImageDraw.Draw(picture).polygon([(x, y) for x, y in corners.tolist()], fill="black", outline="white")
    return picture


def _input(frame: SavedPrediction, view: int, width: int) -> Image.Image:
    """The input image of a camera, or a grey field where its file is gone."""
    size = (width, round(width * frame.camera_size[1] / frame.camera_size[0]))
    try:
        with Image.open(frame.image_paths[view]) as image:
            return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    except Exception:  # noqa: BLE001 - damaged in one of many ways, or of a size that nobody wants
        return Image.new("RGB", size, "#e8e8e8")


def _legend(
    frame: SavedPrediction, shown: Sequence[NDArray[np.uint8]], font: Any, left: int, top: int, right: int, line: int
) -> Iterator[tuple[int, int, str, tuple[int, int, int]]]:
    """Left, top, name and colour of every class that occurs, in rows of the canvas' width."""
    grid, colours, x = frame.grid, palette(frame.grid), left
    for index in np.unique(np.concatenate([labels.ravel() for labels in shown])):
        if index in (grid.empty, grid.ignore) or index >= grid.num_classes:
            continue
        name = grid.class_names[index]
        needed = line + 2 + round(font.getlength(name)) + line
        if x + needed > right and x > left:
            x, top = left, top + line + 4
        red, green, blue = (int(value) for value in colours[index])
        yield x, top, name, (red, green, blue)
        x += needed


def _font(size: float) -> Any:
    return ImageFont.load_default(max(9, round(size)))


def _still(frame: SavedPrediction, width: int, other: SavedPrediction | None) -> Callable[[Path], None]:
    return lambda path: compose(frame, width, other).save(path, format="PNG", optimize=True)


def _animation(frames: Sequence[tuple[SavedPrediction, SavedPrediction | None]], fps: float) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        pictures = [compose(frame, ANIMATION_WIDTH, other) for frame, other in frames]
        size = (ANIMATION_WIDTH, max(picture.height for picture in pictures))  # legends differ in length
        padded = []
        for picture in pictures:
            canvas = Image.new("RGB", size, "white")
            canvas.paste(picture)
            padded.append(canvas)
        # One palette for all frames: with one each, what stands still would change its colour. Found on every second pixel.
        small = [picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.NEAREST) for picture in padded]
        sheet = Image.new("RGB", (small[0].width, small[0].height * len(small)))
        for number, picture in enumerate(small):
            sheet.paste(picture, (0, number * picture.height))
        colours = sheet.quantize(256, dither=Image.Dither.NONE)
        padded = [picture.quantize(palette=colours, dither=Image.Dither.NONE) for picture in padded]
        padded[0].save(path, format="GIF", save_all=True, append_images=padded[1:], duration=round(1000 / fps), loop=0)

    return write


def _rerun() -> Any:
    try:
        import rerun
    except ImportError as error:
        raise ReportError(f"--rerun needs the rerun viewer ({error}): pip install -e '.[viewer]'") from error
    return rerun


def record(viewer: Any, frames: Sequence[SavedPrediction], scene: str, path: Path) -> None:
    """Write the frames of a scene as a rerun recording: voxels, cameras, images, with a time line of frames.

    viewer  the module ``rerun``
    """
    viewer.set_strict_mode(True)  # else it warns of what it cannot write and leaves it out
    stream = viewer.RecordingStream("occupancy", recording_id=_file_name(scene))
    stream.save(str(path))
    stream.log("/", viewer.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
    for frame in frames:
        grid, colours = frame.grid, palette(frame.grid)
        stream.set_time("frame", sequence=frame.index)
        for name, labels in (("predicted", frame.predicted), ("true", frame.true)):
            stream.log(f"world/{name}", viewer.Clear(recursive=True))
            shown = np.where(frame.true == grid.ignore, grid.empty, labels)
            # An entity a class, so that classes have names in the viewer and can be hidden.
            for index in np.setdiff1d(shown, [grid.empty, grid.ignore]):
                voxels = np.argwhere(shown == index)
                boxes = viewer.Boxes3D(
                    centers=(voxels + 0.5) * grid.voxel_size + np.array(grid.lower),
                    half_sizes=np.full((len(voxels), 3), 0.475 * grid.voxel_size),
                    colors=np.tile(colours[index], (len(voxels), 1)),
                    fill_mode="solid",
                )
                stream.log(f"world/{name}/{grid.class_names[index]}", boxes)
        for view, name in enumerate(frame.camera_names):
            pose = np.linalg.inv(frame.reference_to_camera[view])
            stream.log(f"world/{name}", viewer.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]))
            lens = viewer.Pinhole(image_from_camera=frame.intrinsics[view], resolution=frame.camera_size)
            stream.log(f"world/{name}", lens)
            if Path(frame.image_paths[view]).is_file():
                stream.log(f"world/{name}", viewer.Image(np.asarray(_input(frame, view, frame.camera_size[0]))))
    stream.disconnect()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    interrupted = "interrupted; the pictures written so far are complete"
    return guarded(app, words, "python -m reports.visualise", interrupted, (ReportError,))


if __name__ == "__main__":
    sys.exit(finish(main))
