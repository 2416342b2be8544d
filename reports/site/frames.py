"""The page of predictions beside the truth: a still a frame, with a slider over the frames of a scene."""

from __future__ import annotations

import io
from html import escape
from pathlib import Path

from camera_occupancy_bench import ROOT
from reports.site.links import slug

PAGE = "predictions.md"
HERO = "reports/figures/pictures/toy.png"
_WIDTH = 1400
_TITLE = "# Predictions beside the truth"
_MAKE = (
    "```bash\npython -m experiments.predict table_occ3d --row tpvformer+gaussrender --index 0 1 2 3 --out predictions\n"
    "python -m reports.site --predictions predictions\n```"
)


def page(folder: Path | None) -> tuple[str, dict[str, bytes]]:
    """The page and its pictures by path, of the predictions in ``folder``; raises PredictionFileError.

    None: the page with the project's one picture, and how to have more.
    """
    if folder is None:
        text = [
            _TITLE,
            "No folder of predictions was named when this site was built, so here is the one picture that the project ",
        ]
        text[-1] += "keeps: the first validation frame of the generated world, not real data."
        text += [f"![Input images, predicted and true voxels]({HERO})", "With frames of your own, and a slider over them:", _MAKE]
        return "\n\n".join(text), {HERO: (ROOT / HERO).read_bytes()}
    from experiments.predictions import load  # numba and matplotlib come with these, and only here
    from reports import visualise

    pictures: dict[str, bytes] = {}
    text = [
        _TITLE,
        "Each still: the input images, the predicted and the true voxels as each camera sees them, and both from behind ",
    ]
    text[-1] += "and from above. Move the slider from frame to frame."
    frames = [load(path) for path in visualise.listed([folder], apart=True)]
    for title, members in visualise.by_scene(frames).items():
        images = []
        for frame in members:
            name = f"predictions/{slug(title)}/{frame.index}.jpg"
            picture = io.BytesIO()
            visualise.compose(frame, _WIDTH).save(picture, format="JPEG", quality=88, optimize=True)
            pictures[name] = picture.getvalue()
            said = escape(f"{title}, frame {frame.index}: predicted beside true", quote=True)
            images.append(f'<img src="{name.replace("%", "%25")}" alt="{said}" title="frame {frame.index}">')
        text += [f"## {title}", f'<div class="frames">{"".join(images)}</div>']
    return "\n\n".join(text), pictures
