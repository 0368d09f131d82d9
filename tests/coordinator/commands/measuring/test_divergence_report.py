"""What is printed of divergences: the lines of llama-perplexity."""

from __future__ import annotations

import numpy as np

from numoe.coordinator.commands.measuring.divergence_report import HEADING, chunk_line, report
from numoe.coordinator.measuring.divergence import Comparison, statistics_of

COUNT = 1001
FOUND = Comparison(
    nll=np.linspace(1, 3, COUNT),
    base_nll=np.linspace(1, 2, COUNT),
    divergence=np.linspace(0, 1, COUNT),
    change=np.linspace(-0.5, 0.5, COUNT),
    same_top=np.arange(COUNT) < 1000,
)


def test_a_chunks_line_stands_below_its_heading() -> None:
    assert HEADING == (
        "chunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence              Δp RMS"
        "            Same top p\n"
    )
    assert chunk_line(3, statistics_of(FOUND)) == (
        "   3       7.3891 ±    0.1350       0.50000 ±    0.00914       0.50000 ±    0.00914    28.896 ±  0.409 %"
        "    99.900 ±  0.100 %\n"
    )


def test_the_statistics_are_written_to_the_letter() -> None:
    assert report(FOUND) == (
        "====== Perplexity statistics ======\n"
        "Mean PPL(Q)                   :   7.389056 ±   0.135040\n"
        "Mean PPL(base)                :   4.481689 ±   0.040953\n"
        "Cor(ln(PPL(Q)), ln(PPL(base))): 100.00%\n"
        "Mean ln(PPL(Q)/PPL(base))     :   0.500000 ±   0.009138\n"
        "Mean PPL(Q)/PPL(base)         :   1.648721 ±   0.015066\n"
        "Mean PPL(Q)-PPL(base)         :   2.907367 ±   0.094087\n"
        "\n"
        "====== KL divergence statistics ======\n"
        "Mean    KLD:   0.500000 ±   0.009138\n"
        "Maximum KLD:   1.000000\n"
        "99.9%   KLD:   0.999000\n"
        "99.0%   KLD:   0.990000\n"
        "95.0%   KLD:   0.950000\n"
        "90.0%   KLD:   0.900000\n"
        "Median  KLD:   0.500000\n"
        "10.0%   KLD:   0.100000\n"
        " 5.0%   KLD:   0.050000\n"
        " 1.0%   KLD:   0.010000\n"
        " 0.1%   KLD:   0.001000\n"
        "Minimum KLD:   0.000000\n"
        "\n"
        "====== Token probability statistics ======\n"
        "Mean    Δp:  0.000 ± 0.914 %\n"
        "Maximum Δp: 50.000%\n"
        "99.9%   Δp: 49.900%\n"
        "99.0%   Δp: 49.000%\n"
        "95.0%   Δp: 45.000%\n"
        "90.0%   Δp: 40.000%\n"
        "75.0%   Δp: 25.000%\n"
        "Median  Δp:  0.000%\n"
        "25.0%   Δp: -25.000%\n"
        "10.0%   Δp: -40.000%\n"
        " 5.0%   Δp: -45.000%\n"
        " 1.0%   Δp: -49.000%\n"
        " 0.1%   Δp: -49.900%\n"
        "Minimum Δp: -50.000%\n"
        "RMS Δp    : 28.896 ± 0.409 %\n"
        "Same top p: 99.900 ± 0.100 %\n"
    )
