from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fisherscope.core.errors import ModelError, SettingError
from fisherscope.models.base import load_model

transformers = pytest.importorskip("transformers", reason="needs fisherscope[language]")
from fisherscope.models.adapters.transformers import TransformersModel  # noqa: E402

X = torch.randint(0, 60, (3, 10), generator=torch.Generator().manual_seed(0))


def save_gpt2(folder: Path) -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=60, n_positions=16, n_embd=8, n_layer=1, n_head=2, bos_token_id=3, eos_token_id=4
    )
    lm = transformers.GPT2LMHeadModel(config).eval()
    lm.save_pretrained(folder)
    return lm


def test_a_local_folder_is_a_model(tmp_path: Path) -> None:
    lm = save_gpt2(tmp_path / "lm")
    model = load_model(tmp_path / "lm", settings={"window": 10})
    assert isinstance(model, TransformersModel) and model.value_range == (0.0, 59.0)
    ids = torch.cat([torch.full((3, 1), 3), X], dim=1)
    expected = torch.nn.functional.log_softmax(lm(ids).logits[:, :-1], dim=2).gather(2, X[:, :, None]).sum((1, 2))
    assert torch.allclose(model.log_prob(X), expected, atol=1e-4)
    # transformers' own loss is the mean over the tokens
    assert torch.allclose(-lm(ids, labels=ids).loss * X.numel(), expected.sum(), rtol=1e-4)
    assert "lm.transformer.wte.weight" in dict(model.named_parameters())
    model.save(tmp_path / "m")
    again = load_model(tmp_path / "m")
    assert torch.equal(again.log_prob(X), model.log_prob(X))
    assert again.lm.lm_head.weight is again.lm.transformer.wte.weight


def test_the_start_token_can_be_chosen(tmp_path: Path) -> None:
    save_gpt2(tmp_path / "lm")
    first, second = (load_model(tmp_path / "lm", settings={"window": 10, "start": s}) for s in (None, 7))
    assert first.start == 3 and not torch.equal(first.log_prob(X), second.log_prob(X))
    with pytest.raises(SettingError, match="start is 60"):
        load_model(tmp_path / "lm", settings={"start": 60})


def test_only_safetensors_are_read(tmp_path: Path) -> None:
    save_gpt2(tmp_path / "lm")
    torch.save({}, tmp_path / "lm" / "pytorch_model.bin")
    (tmp_path / "lm" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no causal LM with safetensors"):
        load_model(tmp_path / "lm")


def test_tokens_are_found_for_an_explanation(tmp_path: Path) -> None:
    import fisherscope

    save_gpt2(tmp_path / "lm")
    model = load_model(tmp_path / "lm", settings={"window": 10}, dtype=torch.float64)
    x = torch.randint(0, 60, (60, 10), generator=torch.Generator().manual_seed(1))
    guard = fisherscope.fit(model, x, detector="total-norm", fpr=0.1)
    found = guard.explain(x[:2])
    assert found.kind == "tokens" and found.maps.shape == (2, 1, 10)
    assert (found.maps[..., :9] > 0).all() and (found.maps[..., 9] == 0).all()
