"""What can go wrong, in the user's words. "Nobody takes this lead" is an answer, not an error."""


class PointsmanError(Exception):
    """The lead router could not do what it was asked to do."""


class LeadNotFound(PointsmanError):
    """No such lead."""


class NotReady(PointsmanError):
    """The router has no configuration to decide on yet."""


class StoreUnavailable(PointsmanError):
    """The database cannot be reached; nothing that was not answered for is known to have happened."""


class Busy(PointsmanError):
    """Others hold what this lead needs for too long; nothing happened, try again."""


class Refused(PointsmanError):
    """The database's own rules refuse this lead's assignment; nothing happened."""


class UnsuitableTransaction(PointsmanError, ValueError):
    """The caller's transaction cannot carry a decision."""


class DatabaseUnfit(PointsmanError):
    """The database is not one that this release of Pointsman can work with."""


class DecisionNotFound(PointsmanError):
    """No such decision."""


class HistoryPruned(PointsmanError):
    """What the decision was made on is no longer kept whole, so it cannot be explained again."""


class HistoryHole(PointsmanError):
    """The history of the configuration has a hole."""


class DecisionDiffers(PointsmanError):
    """The decision does not come out again as it is recorded, so it cannot be explained."""


class InvalidHypothesis(PointsmanError, ValueError):
    """What was asked about cannot be."""


class EmbeddedUnavailable(PointsmanError):
    """The embedded PostgreSQL cannot be started here."""
