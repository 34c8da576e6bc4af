"""Oxford Flowers-102: numbered images, labels and splits as MATLAB files. The class names are published separately."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aselect_edge.data.classes import name_classes
from aselect_edge.data.layout import Layout
from aselect_edge.data.lists import listed, numbered, read_matlab
from aselect_edge.data.sets import ClassificationData
from aselect_runtime.errors import InputError

_LABELS, _SPLITS = "imagelabels.mat", "setid.mat"
_VARIABLES = {"train": "trnid", "val": "valid", "test": "tstid"}
_NAMES = """
pink primrose, hard-leaved pocket orchid, canterbury bells, sweet pea, english marigold, tiger lily, moon orchid,
bird of paradise, monkshood, globe thistle, snapdragon, colt's foot, king protea, spear thistle, yellow iris,
globe-flower, purple coneflower, peruvian lily, balloon flower, giant white arum lily, fire lily, pincushion flower,
fritillary, red ginger, grape hyacinth, corn poppy, prince of wales feathers, stemless gentian, artichoke,
sweet william, carnation, garden phlox, love in the mist, mexican aster, alpine sea holly, ruby-lipped cattleya,
cape flower, great masterwort, siam tulip, lenten rose, barbeton daisy, daffodil, sword lily, poinsettia,
bolero deep blue, wallflower, marigold, buttercup, oxeye daisy, common dandelion, petunia, wild pansy, primula,
sunflower, pelargonium, bishop of llandaff, gaura, geranium, orange dahlia, pink-yellow dahlia, cautleya spicata,
japanese anemone, black-eyed susan, silverbush, californian poppy, osteospermum, spring crocus, bearded iris,
windflower, tree poppy, gazania, azalea, water lily, rose, thorn apple, morning glory, passion flower, lotus,
toad lily, anthurium, frangipani, clematis, hibiscus, columbine, desert-rose, tree mallow, magnolia, cyclamen,
watercress, canna lily, hippeastrum, bee balm, ball moss, foxglove, bougainvillea, camellia, mallow, mexican petunia,
bromelia, blanket flower, trumpet creeper, blackberry lily
"""


def _read(data: Path, split: str) -> ClassificationData:
    labels = np.atleast_1d(read_matlab(data / _LABELS, "labels")[0])
    chosen = np.atleast_1d(read_matlab(data / _SPLITS, _VARIABLES[split])[0])
    if labels.dtype.kind not in "iu" or chosen.dtype.kind not in "iu" or labels.ndim + chosen.ndim != 2:
        raise InputError(
            f"{data / _LABELS}, {_SPLITS}: got other contents, expected lists of numbers; download them again"
        )
    outside = chosen[(chosen < 1) | (chosen > len(labels))]
    if outside.size:
        raise InputError(
            f"{data / _SPLITS}: got image {outside[0]}, expected 1 to the {len(labels)} of {_LABELS}; download both "
            f"again"
        )
    names = [" ".join(name.split()) for name in _NAMES.split(",")]
    paths = listed(data / "jpg", (f"image_{number:05d}.jpg" for number in chosen), data / _SPLITS)
    found = (numbered(str(labels[number - 1]), len(names), data / _LABELS) for number in chosen)
    return ClassificationData(tuple(paths), tuple(found), name_classes(names, data))


FLOWERS = Layout(
    "Oxford Flowers-102",
    f"jpg/, {_LABELS} and {_SPLITS}",
    lambda data: (data / "jpg").is_dir() and (data / _LABELS).is_file(),
    lambda _: tuple(_VARIABLES),
    _read,
)
