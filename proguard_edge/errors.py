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
 └─ TrainingError      a training run cannot start, or stopped before its end

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
