"""Every error that proguard-edge raises on purpose.

ProGuardEdgeError
 ├─ ArtifactError      the artifact is missing, altered, of another version, or unable
 ├─ PolicyError        a policy file or a category id is not valid
 ├─ InputError         the content cannot be moderated as given
 │   ├─ ImageError     an image that cannot be decoded, or of a format that is not accepted
 │   ├─ TextError      text that cannot be encoded
 │   ├─ LanguageError  text in a language that the artifact does not read, and found "safe"
 │   └─ LimitError     larger than a limit: bytes, pixels, frames, tokens
 ├─ EngineError        the engine could not be loaded, or failed while it ran
 ├─ AnswerError        the model's answer is not one of the allowed answers
 ├─ QualityError       an export was measured, and changed more than it may
 ├─ TrainingError      a training run cannot start, or stopped before its end
 └─ ServiceError       the server could not give a verdict now; another time it may
     ├─ BusyError      the queue is full: come back after `retry_after` seconds
     ├─ DeadlineError  no verdict within the time that a request may take
     ├─ WorkerError    the process that judges died or hung
     │   └─ StartingError  no process that judges has started yet
     └─ AuditError     the audit log cannot be written, read, or does not hold together

None of them ever stands for "safe": whoever catches one knows that nothing was decided.
"""

from __future__ import annotations


class ProGuardEdgeError(Exception):
    """Base class. `str(error)` is one line for a person; it names the fix where there is one."""


class ArtifactError(ProGuardEdgeError):
    """The artifact folder cannot be used: missing, altered, of another version, or unable."""


class PolicyError(ProGuardEdgeError):
    """A policy is malformed, or something refers to a category that it does not hold."""


class InputError(ProGuardEdgeError):
    """The content given by the caller cannot be moderated as it is."""


class ImageError(InputError):
    """The image is not of an accepted format, or is truncated or damaged."""


class TextError(InputError):
    """The text cannot be encoded, for example a lone surrogate, or all of it is empty."""


class LanguageError(InputError):
    """The text is in a language that the artifact does not read: its "safe" is withheld."""


class LimitError(InputError):
    """The content is larger than a limit. Limits are errors: nothing is cut in silence."""


class EngineError(ProGuardEdgeError):
    """The engine could not be loaded, or failed while running. No verdict was reached."""


class AnswerError(ProGuardEdgeError):
    """The model's answer does not follow the answer format. It is never read as "safe"."""


class QualityError(ProGuardEdgeError):
    """An export changed more than it may, or was not measured on enough rows."""


class TrainingError(ProGuardEdgeError):
    """A training run cannot start, or stopped before its end."""


class ServiceError(ProGuardEdgeError):
    """The server gives no verdict now. `retry_after`: seconds after which it may."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BusyError(ServiceError):
    """More requests wait than may: nothing was judged, come back after `retry_after`."""


class DeadlineError(ServiceError):
    """The request waited, or was judged, longer than it may. No verdict was given."""


class WorkerError(ServiceError):
    """The process that judges died or hung. No verdict was given."""


class StartingError(WorkerError):
    """No process that judges has started yet, or again. Nothing was judged."""


class AuditError(ServiceError):
    """The audit log cannot be written or read, or does not hold together."""
