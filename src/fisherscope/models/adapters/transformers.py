"""Causal language models of the transformers library (extra ``language``), from a local folder or the hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from fisherscope.core.errors import ModelError, SettingError
from fisherscope.models.initial import initial_seed
from fisherscope.models.next_symbol import NextSymbolModel


def _library() -> Any:
    try:
        import transformers
    except ImportError:
        raise ModelError("this model needs the transformers library; install fisherscope[language]") from None
    return transformers


class TransformersModel(NextSymbolModel):
    """A causal language model over windows of token ids of one length.

    Args:
        architecture: the library's configuration, with its ``model_type``.
        window: tokens a window.
        start: id of the token before the first one; by default the configuration's bos or eos token.
        init_seed: seed of the initial weights.
    """

    family: ClassVar[str] = "transformers"

    def __init__(
        self, architecture: Mapping[str, Any], window: int = 64, start: int | None = None, init_seed: int = 0
    ) -> None:
        library = _library()
        rest = dict(architecture)
        config = library.AutoConfig.for_model(rest.pop("model_type"), **rest)
        if start is None:
            start = config.bos_token_id if config.bos_token_id is not None else config.eos_token_id
        if start is None or not 0 <= start < config.vocab_size or window < 1:
            raise SettingError(f"start is {start} and window {window}, expected a token id and at least 1 token")
        super().__init__((window,), (0.0, float(config.vocab_size - 1)))
        with initial_seed(init_seed):
            self.lm = library.AutoModelForCausalLM.from_config(config)
        self.start = start
        self._config = {"architecture": dict(architecture), "window": window, "start": start, "init_seed": init_seed}

    @classmethod
    def from_pretrained(cls, name: str | Path, *, window: int = 64, start: int | None = None) -> TransformersModel:
        """Return the model of a local folder or of a hub name ``owner/name``; no code or pickle in it is run.

        ``HF_HUB_OFFLINE=1`` takes a hub name from the local cache only.

        Args:
            name: the folder, or the name on the hub; the weights must be safetensors.
            window: tokens a window.
            start: id of the token before the first one.

        Raises:
            ModelError: there is no such model, or its weights are no safetensors.
        """
        library = _library()
        try:
            lm = library.AutoModelForCausalLM.from_pretrained(
                str(name),
                use_safetensors=True,
                local_files_only=Path(name).is_dir(),
                trust_remote_code=False,
                dtype=torch.float32,
            )
        except (OSError, ValueError, KeyError, RuntimeError) as cause:
            raise ModelError(f"{name} is no causal LM with safetensors: {str(cause).splitlines()[0]}") from None
        model = cls(_plain(lm.config), window, start)
        model.lm.load_state_dict(lm.state_dict())
        return model.eval()

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return dict(self._config)

    def logits(self, before: Tensor) -> Tensor:
        """Return logits of the next token, (n, t, V), for token ids ``before`` (n, t)."""
        logits: Tensor = self.lm(input_ids=before, use_cache=False).logits
        return logits


def _plain(config: Any) -> dict[str, Any]:
    value: dict[str, Any] = config.to_diff_dict()
    return {"model_type": config.model_type} | {
        k: v for k, v in value.items() if k not in ("transformers_version", "architectures", "dtype", "torch_dtype")
    }
