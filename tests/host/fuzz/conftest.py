"""Each fuzz test tries a few hundred cases, always the same; with LORA_TRANSFER_FUZZ=20000 so many, and new ones."""

import os

from hypothesis import HealthCheck, settings

CASES = os.environ.get("LORA_TRANSFER_FUZZ")

settings.register_profile(
    "lora_transfer",
    max_examples=int(CASES or 300),
    derandomize=CASES is None,
    database=None,
    deadline=None,
    # The bases are shared by all cases of a test, which leave them as they are.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("lora_transfer")
