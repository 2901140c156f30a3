"""Property tests look at a few dozen examples; `pytest --hypothesis-profile=deep` looks at thousands."""

import os

from hypothesis import settings

# A catalogue of whoever runs the tests must not change what they see.
os.environ["PHASEWISE_CATALOGUE"] = ""

settings.register_profile("quick", max_examples=60, deadline=None)
settings.register_profile("deep", max_examples=3_000, deadline=None)
settings.load_profile("quick")
