"""All baselines by name. Loads no torch."""

from __future__ import annotations

from baselines.recipe import Recipe
from renderers.registry import Registry

BASELINES: Registry[Recipe] = Registry(
    "model",
    {
        "prior": "baselines.prior.recipe:RECIPE",
        "tpvformer": "baselines.tpvformer.recipe:RECIPE",
        "surroundocc": "baselines.surroundocc.recipe:RECIPE",
        "symphonies": "baselines.symphonies.recipe:RECIPE",
        "monoscene": "baselines.monoscene.recipe:RECIPE",
        "renderocc": "baselines.renderocc.recipe:RECIPE",
        "bevdetocc": "baselines.bevdetocc.recipe:RECIPE",
        "gaussianflowocc": "baselines.gaussianflowocc.recipe:RECIPE",
        "gaussianocc": "baselines.gaussianocc.recipe:RECIPE",
        "gaussianocc_gsp": "baselines.gaussianocc_gsp.recipe:RECIPE",
        "occformer": "baselines.occformer.recipe:RECIPE",
        "gaussianformer2": "baselines.gaussianformer2.recipe:RECIPE",
        "gaussianformer2_init": "baselines.gaussianformer2.recipe:FIRST_STAGE",
    },
    "baselines",
)
