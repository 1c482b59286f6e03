"""The host's own engine."""


def price(buyer_id: object) -> int:
    """What a lead costs, in cents; prices are none of Pointsman's business."""
    return 0 if buyer_id is None else 4200
