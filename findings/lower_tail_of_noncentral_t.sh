#!/usr/bin/env bash
# scipy 1.17.1: the cumulative distribution function of noncentral t is NaN in many places of its far tail, one by one
# between neighbours that are finite, and nothing is said; the survival function in the same places is right.
#
# Seen: of whole and half t from -5 to 5, centres from -20 to 20 and degrees of freedom from 1 to 30, some hundredths of
# all values of scipy.stats.nct.cdf are NaN, all of them where t and centre have opposite signs, so that the value is
# about 0 or about 1. A two-sided power made of both tails is then NaN where it should be 1 - 1e-17. What is written as a
# survival function, sf(t, df, centre), or as that of the mirrored distribution, sf(-t, df, -centre), is finite.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check scipy==1.17.1 numpy==2.4.6
cat > "$folder/seen.py" <<'PYTHON'
import warnings

import numpy as np
import scipy
from scipy import special, stats

warnings.simplefilter("error")
print("scipy", scipy.__version__)
df, centre, t = np.meshgrid(np.arange(1.0, 31), np.arange(-20, 20.5, 0.5), np.arange(-5, 5.5, 0.5), indexing="ij")
below = stats.nct.cdf(t, df, centre)  # no warning
missing = np.isnan(below)
print(f"{missing.mean():.1%} of {missing.size:,} values of the cdf are NaN")
assert 0.01 < missing.mean() < 0.2, "another share of NaN"
assert (t[missing] * centre[missing] < 0).all(), "NaN where t and centre have the same sign"
assert np.isnan(special.nctdtr(df, centre, t))[missing].all(), "scipy.special knows better"

neighbours = (missing[:, 1:-1] & ~missing[:, :-2] & ~missing[:, 2:]).sum()
print(f"{neighbours:,} of them between two finite neighbours")
assert neighbours > 100, "no longer one by one"

above = stats.nct.sf(t, df, centre)
assert np.isfinite(above).all(), "NaN in the survival function, too"
lower = missing & (t < 0)
assert (above[lower] > 1 - 1e-6).all(), "a value that isn't in the far tail"
assert np.isfinite(stats.nct.sf(-t, df, -centre)).all(), "NaN in the mirrored tail"
print("the survival function is finite everywhere")
PYTHON
"$folder/venv/bin/python" "$folder/seen.py"
