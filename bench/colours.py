"""One colour a buffer in all figures of the benchmarks: Okabe and Ito's, told apart by colour-blind readers."""

COLOURS = {
    "really": "#0072B2",
    "sb3": "#D55E00",
    "cpprb": "#009E73",
    "rlox": "#CC79A7",
    "numpy": "#555555",
    "list": "#E69F00",
    "torchrl": "#F0E442",
    "flashbax": "#8C564B",
    "bare": "#999999",
    "floor": "#BBBBBB",
    "best C": "#56B4E9",
}
