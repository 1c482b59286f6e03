"""What can keep an enrollment from a lead."""

from enum import IntFlag


class Fault(IntFlag):
    """What stands in an enrollment's row or its buyer's and keeps it from a lead, as bits."""

    BUYER_MISSING = 1 << 0
    INACTIVE = 1 << 1
    BAD_HOURS = 1 << 2
    BAD_ZONE_OF_HOURS = 1 << 3
    BAD_ZONE_OF_CAPS = 1 << 4
    BAD_HOURLY_CAP = 1 << 5
    BAD_DAILY_CAP = 1 << 6
    BAD_PRIORITY_RANK = 1 << 7
    BAD_WEIGHT = 1 << 8
    BAD_SLA = 1 << 9
    PAUSED = 1 << 10
    BELOW_MIN_BALANCE = 1 << 11
    ZERO_WEIGHT = 1 << 12
    ZERO_CAP = 1 << 13
