"""The specification against one case worked by hand."""

import math

import numpy as np
import pytest

from bptt import reference


def test_two_steps_with_peepholes():
    """T=2, B=I=H=1, built backwards from gates whose values are fractions.

    sigmoid(ln 3) = 3/4, sigmoid(0) = 1/2, sigmoid(-ln 3) = 1/4, tanh(ln a) = (a^2 - 1) / (a^2 + 1).

    =====  ===  ===  =======  ===  ====================================  =======  ====
    step   i    f    g        o    c                                     tanh(c)  h
    =====  ===  ===  =======  ===  ====================================  =======  ====
    start                          2 ln 2 - 9/10                                  1/2
    1      3/4  1/2  3/5      1/4  (ln 2 - 9/20) + 9/20 = ln 2           3/5      3/20
    2      1/4  1/4  ln(9/8)  1/2  (ln 2 + ln(9/8)) / 4 = ln(3/2) / 2    1/5      1/10
    =====  ===  ===  =======  ===  ====================================  =======  ====
    """
    ln2, ln3, g_2 = math.log(2), math.log(3), math.log(9 / 8)
    c_0, c_1, c_2 = 2 * ln2 - 9 / 10, ln2, math.log(3 / 2) / 2
    h_0, h_1, h_2 = 1 / 2, 3 / 20, 1 / 10

    # Recurrent and peephole weights are free; they are u and p. The pre-activations are those of the table:
    #   z_1 = b + w + u h_0 + p c,   z_2 = b - w + u h_1 + p c   (x_1 = 1, x_2 = -1),
    # where p reads c_0 and then c_1 in the gates i and f, c_1 and then c_2 in the gate o.
    # This leaves for w and b:
    u_i, u_f, u_g, u_o = 2.0, -1.0, 1.0, -2.0
    p_i, p_f, p_o = 1.0, -1.0, 2.0
    r_i1, r_i2 = ln3 - u_i * h_0 - p_i * c_0, -ln3 - u_i * h_1 - p_i * c_1
    r_f1, r_f2 = 0.0 - u_f * h_0 - p_f * c_0, -ln3 - u_f * h_1 - p_f * c_1
    r_g1, r_g2 = ln2 - u_g * h_0, math.atanh(g_2) - u_g * h_1
    r_o1, r_o2 = -ln3 - u_o * h_0 - p_o * c_1, 0.0 - u_o * h_1 - p_o * c_2
    # Of each pair the first is b + w, the second b - w.
    w = [(r_i1 - r_i2) / 2, (r_f1 - r_f2) / 2, (r_g1 - r_g2) / 2, (r_o1 - r_o2) / 2]
    b = [(r_i1 + r_i2) / 2, (r_f1 + r_f2) / 2, (r_g1 + r_g2) / 2, (r_o1 + r_o2) / 2]

    # Step 2 backwards, with d_output = (1, 3), d_h_n = 1, d_c_n = 1/2.
    dh_2 = 4.0  # 3 + 1
    dz_o2 = 1 / 5  # 4 * 1/5 * 1/4
    dc_2 = 141 / 50  # 1/2 + 4 * 1/2 * 24/25 + 2 * 1/5
    dz_i2 = 423 / 800 * g_2  # 141/50 * ln(9/8) * 3/16
    dz_f2 = 423 / 800 * ln2  # 141/50 * ln 2 * 3/16
    dz_g2 = 141 / 200 * (1 - g_2 * g_2)  # 141/50 * 1/4 * (1 - g^2)
    dc_rec = 141 / 200 + dz_i2 - dz_f2  # 141/50 * 1/4 + p_i dz_i + p_f dz_f
    dh_rec = 2 * dz_i2 - dz_f2 + dz_g2 - 2 * dz_o2  # u dz
    # Step 1 backwards.
    dh_1 = 1 + dh_rec
    dz_o1 = 9 / 80 * dh_1  # 3/5 * 3/16
    dc_1 = dc_rec + 77 / 200 * dh_1  # 1/4 * 16/25 + 2 * 9/80 = 77/200
    dz_i1 = 9 / 80 * dc_1  # 3/5 * 3/16
    dz_f1 = c_0 / 4 * dc_1  # c_0 * 1/4
    dz_g1 = 12 / 25 * dc_1  # 3/4 * 16/25
    # The same to ten digits, from a calculator of higher precision.
    numbers = [c_0, dz_i2, dz_f2, dz_g2, dc_rec]
    assert numbers == pytest.approx(
        [0.4862943611, 0.0622777801, 0.3665015717, 0.6952196453, 0.4007762084], abs=1e-10
    )
    assert [dh_rec, dh_1, dc_1] == pytest.approx([0.0532736338, 1.0532736338, 0.8062865574], abs=1e-10)

    weights = {
        "weight_ih": np.array(w).reshape(4, 1),
        "weight_hh": np.array([[u_i], [u_f], [u_g], [u_o]]),
        "bias_ih": np.array(b) + 0.25,
        "bias_hh": np.full(4, -0.25),
        "weight_peephole": np.array([[p_i], [p_f], [p_o]]),
    }
    given = (np.array([[[1.0]], [[-1.0]]]), np.array([[h_0]]), np.array([[c_0]]), weights)
    output, h_n, c_n, cells, gates = reference.lstm_forward(*given)
    errors = (np.array([[[1.0]], [[3.0]]]), np.array([[1.0]]), np.array([[0.5]]))
    dx, d_h_0, d_c_0, d_weights, d_hidden, d_cells = reference.lstm_backward(
        *given, output, cells, gates, *errors
    )

    def check(array, *expected):
        np.testing.assert_allclose(array.ravel(), expected, rtol=1e-12)

    check(output, h_1, h_2)
    check(cells, c_1, c_2)
    check(h_n, h_2)
    check(c_n, c_2)
    check(gates, 3 / 4, 1 / 2, 3 / 5, 1 / 4, 1 / 4, 1 / 4, g_2, 1 / 2)
    check(d_hidden, dh_1, dh_2)
    check(d_cells, dc_1, dc_2)
    check(d_h_0, 2 * dz_i1 - dz_f1 + dz_g1 - 2 * dz_o1)  # u dz
    check(d_c_0, dc_1 / 2 + dz_i1 - dz_f1)  # dc f + p_i dz_i + p_f dz_f
    dz_1, dz_2 = (dz_i1, dz_f1, dz_g1, dz_o1), (dz_i2, dz_f2, dz_g2, dz_o2)
    check(dx, *(sum(w[k] * dz[k] for k in range(4)) for dz in (dz_1, dz_2)))
    check(d_weights["weight_ih"], *(d_1 - d_2 for d_1, d_2 in zip(dz_1, dz_2, strict=True)))  # x = 1, -1
    check(d_weights["weight_hh"], *(h_0 * d_1 + h_1 * d_2 for d_1, d_2 in zip(dz_1, dz_2, strict=True)))
    check(d_weights["bias_ih"], *(d_1 + d_2 for d_1, d_2 in zip(dz_1, dz_2, strict=True)))
    check(d_weights["bias_hh"], *(d_1 + d_2 for d_1, d_2 in zip(dz_1, dz_2, strict=True)))
    d_p_i, d_p_f, d_p_o = dz_i1 * c_0 + dz_i2 * c_1, dz_f1 * c_0 + dz_f2 * c_1, dz_o1 * c_1 + dz_o2 * c_2
    check(d_weights["weight_peephole"], d_p_i, d_p_f, d_p_o)
