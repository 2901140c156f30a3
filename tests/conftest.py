"""Property tests look at a few dozen examples, the same each time, so that one commit is either green or not.

`pytest --hypothesis-profile=random` draws others each time, and `deep` thousands: look there for new trouble.
"""

import os

from hypothesis import settings

# A catalogue of whoever runs the tests must not change what they see.
os.environ["PHASEWISE_CATALOGUE"] = ""

settings.register_profile("quick", max_examples=60, deadline=None, derandomize=True)
settings.register_profile("random", max_examples=60, deadline=None)
settings.register_profile("deep", max_examples=3_000, deadline=None)
settings.load_profile("quick")
