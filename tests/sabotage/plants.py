"""All plants, in the order in which they are tried."""

from typing import Final

from tests.sabotage.plants_delivery import DELIVERY
from tests.sabotage.plants_requests import REQUESTS

PLANTS: Final = (*DELIVERY, *REQUESTS)
