"""Derive the coefficients of csrc/act.inc.h and print them as that file has them, but for its line breaks.

    python csrc/tools/activation_coefficients.py            prints the definitions of both precisions
    python csrc/tools/activation_coefficients.py --check    fails unless csrc/act.inc.h holds the very same

A polynomial, best in the relative sense: Remez exchange in 40 digits, then each coefficient rounded to the
nearest number of the precision. The comment on each block gives the relative error that is left.

    exp(r) ~ 1 + r + r^2 (e_2 + e_3 r + ...)  |r| <= ln(2) / 2

Needs mpmath.
"""

import argparse
import pathlib
from typing import NamedTuple

import mpmath
from mpmath import mpf

mpmath.mp.dps = 40

ROUNDING_SLACK = mpf("1.001")  # r leaves [-ln(2)/2, ln(2)/2] by a rounding of x * log2(e)
GRID = 2000


class Precision(NamedTuple):
    suffix: str
    bits: int  # of the significand, the hidden one included
    bias: int  # of the exponent
    exp_degree: int
    ln2_high_bits: int  # n * LN2_HIGH is exact without a fused multiplication for every |n| <= bias + 1


PRECISIONS = {
    "float": Precision("f", 24, 127, exp_degree=6, ln2_high_bits=16),
    "double": Precision("", 53, 1023, exp_degree=11, ln2_high_bits=38),
}


def remez(target, weight, basis, points):
    """Coefficients c that minimise max |weight * (sum c_j basis_j - target)| over the points.

    The points ascend. Source: E. W. Cheney, Introduction to Approximation Theory, section 3.8.
    """
    rows = [[f(x) for f in basis] for x in points]
    wanted = [target(x) for x in points]
    weights = [weight(x) for x in points]
    count = len(basis) + 1
    reference = [k * (len(points) - 1) // (count - 1) for k in range(count)]
    for _ in range(50):
        system = mpmath.matrix(count, count)
        right = mpmath.matrix(count, 1)
        for row, at in enumerate(reference):
            for j, value in enumerate(rows[at]):
                system[row, j] = value
            system[row, count - 1] = (-1) ** row / weights[at]
            right[row] = wanted[at]
        solution = list(mpmath.lu_solve(system, right))
        coefficients, level = solution[:-1], abs(solution[-1])
        errors = [
            w * (mpmath.fdot(coefficients, row) - y) for w, row, y in zip(weights, rows, wanted, strict=True)
        ]
        if max(abs(e) for e in errors) <= level * mpf("1.0001"):
            return coefficients
        reference = alternating_peaks(errors, count)
    raise ArithmeticError("the exchange did not settle")


def alternating_peaks(errors, count):
    """Indices of `count` neighbouring peaks of alternating sign, the largest error among them."""
    peaks = []
    for at, error in enumerate(errors):
        if peaks and (errors[peaks[-1]] >= 0) == (error >= 0):
            if abs(error) > abs(errors[peaks[-1]]):
                peaks[-1] = at
        else:
            peaks.append(at)
    if len(peaks) < count:
        raise ArithmeticError(f"{len(peaks)} alternating peaks, {count} wanted")
    while len(peaks) > count:
        peaks.pop(0 if abs(errors[peaks[0]]) < abs(errors[peaks[-1]]) else -1)
    return peaks


def chebyshev_points(low, high):
    """GRID points that crowd towards both ends."""
    middle, half = (low + high) / 2, (high - low) / 2
    return [middle - half * mpmath.cos(mpmath.pi * (k + mpf(0.5)) / GRID) for k in range(GRID)]


def rounded(x, bits):
    """The nearest number with `bits` significant bits."""
    shift = bits - 1 - int(mpmath.floor(mpmath.log(abs(x), 2)))
    return mpmath.ldexp(mpmath.nint(mpmath.ldexp(x, shift)), -shift)


def exp_terms(precision):
    """Rounded coefficients of exp, and the largest relative error of the polynomial."""
    half = mpmath.log(2) / 2 * ROUNDING_SLACK
    points = chebyshev_points(-half, half)
    terms = remez(
        target=lambda r: mpmath.exp(r) - 1 - r,
        weight=lambda r: mpmath.exp(-r),
        basis=[lambda r, k=k: r**k for k in range(2, precision.exp_degree + 1)],
        points=points,
    )
    terms = [rounded(term, precision.bits) for term in terms]
    backwards = [*reversed(terms), mpf(1), mpf(1)]
    return terms, max(abs(mpmath.polyval(backwards, r) * mpmath.exp(-r) - 1) for r in points)


def literal(x, precision):
    """A C hexadecimal literal of x, which the precision must hold exactly."""
    value = float(x)
    if mpf(value) != x or rounded(x, precision.bits) != x:
        raise ArithmeticError(f"{x} does not fit")
    mantissa, exponent = value.hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{exponent}{precision.suffix}"


def definition(name, values, precision):
    return f"#define {name} " + ", ".join(literal(value, precision) for value in values)


def definitions(precision):
    """The block of definitions of one precision."""
    ln2 = mpmath.log(2)
    ln2_high = rounded(ln2, precision.ln2_high_bits)
    exp, exp_error = exp_terms(precision)
    constants = {
        "ROUND": mpf(1.5) * 2 ** (precision.bits - 1) + precision.bias,
        "LOG2_E": rounded(1 / ln2, precision.bits),
        "LN2": rounded(ln2, precision.bits),
        "LN2_HIGH": ln2_high,
        "LN2_LOW": rounded(ln2 - ln2_high, precision.bits),
    }
    return "\n".join(
        [
            f"/* exp to {mpmath.nstr(exp_error, 2)}. */",
            f"#define MANTISSA_BITS {precision.bits - 1}",
            *(definition(name, [value], precision) for name, value in constants.items()),
            definition("EXP_TERMS", exp, precision),
        ]
    )


def unfolded(text):
    """The text without its line breaks and alignment."""
    return " ".join(text.replace("\\\n", " ").split())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with csrc/act.inc.h")
    check = parser.parse_args().check
    header = pathlib.Path(__file__).resolve().parent.parent / "act.inc.h"
    for name, precision in PRECISIONS.items():
        text = definitions(precision)
        if not check:
            print(text, end="\n\n")
        elif unfolded(text) not in unfolded(header.read_text()):
            raise SystemExit(f"{header}: the {name} coefficients differ from the derived ones")


if __name__ == "__main__":
    main()
