"""Folders that `numoe pack` wrote hold panels as kernels read them: where those change, the layout's number must."""

from __future__ import annotations

import hashlib

import numpy as np

from numoe.kernels.weights.formats import ROWS, Format
from numoe.model.planning.panels import PANEL_LAYOUT
from tests.kernels.numeric import SEED, every_format, packed

VALUES = 3 * 256  # of a row: more than the units of any format that are drawn together
# The panels of each layout. What changes one of them needs a layout of its own; a new format does not.
PANELS = {
    1: {
        "F32": "737272a7199d06df",
        "F16": "e63b413595c248e1",
        "BF16": "e63b413595c248e1",
        "Q8_0": "669a746f9a51d40c",
        "Q4_0": "b27bcd2168fdd7b5",
        "Q5_0": "98f69bcf477a63f6",
        "IQ4_NL": "b27bcd2168fdd7b5",
        "MXFP4": "05ea3a9c8d8c94f5",
        "Q4_1": "bde6cd64d2eac557",
        "Q5_1": "a1fd99734472cd34",
        "Q3_K": "b879604fa4ea63ac",
        "Q6_K": "738590c7587fb967",
        "IQ4_XS": "85abbb6fc62b8d84",
        "Q2_K": "225931a13bdfc826",
        "Q4_K": "2850e9492e7433e8",
        "Q5_K": "d57b118f6732490d",
    },
}


@every_format
def test_panels_lie_as_the_number_of_their_layout_says(format_: Format) -> None:
    random, size = np.random.default_rng(SEED), VALUES // format_.unit_values * format_.unit_bytes
    rows = random.integers(0, 256, (2 * ROWS - 3, size), np.uint8)  # the last panel is short
    digest = hashlib.sha256(packed(format_, rows).tobytes()).hexdigest()[:16]
    assert digest == PANELS[PANEL_LAYOUT][format_.name], "raise PANEL_LAYOUT, as folders packed before are of no use"
