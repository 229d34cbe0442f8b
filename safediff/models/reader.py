"""Whether all of a text is read, told before it is drawn."""

import copy
import threading

from safediff.models.backbone import Backbone


class Reader:
    """Counts tokens with copies of a model's tokenizers.

    Those of the model encode prompts in another thread, and one tokenizer is not for two.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._as_read = backbone.as_read
        self._tokenizers = [
            (copy.deepcopy(getattr(backbone, name)), window)
            for name, window in backbone.windows.items()
        ]
        self._lock = threading.Lock()

    def cut_after(self, text: str) -> int | None:
        """How many tokens of a text are read by an encoder that does not read all of it.

        Start and end not counted; None: every encoder reads all.
        """
        spelt = self._as_read(text)
        with self._lock:
            for tokenizer, window in self._tokenizers:
                if len(tokenizer(spelt)["input_ids"]) > window:
                    return int(window - tokenizer.num_special_tokens_to_add())
        return None
