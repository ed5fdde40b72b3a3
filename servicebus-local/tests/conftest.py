"""What every test of the broker shares."""

from hypothesis import settings

from tests.examples import examples

settings.register_profile("ours", examples(100))
settings.load_profile("ours")
