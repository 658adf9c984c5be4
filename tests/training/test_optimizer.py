"""The optimizer against the singular value decomposition, and against torch's AdamW."""

import copy

import pytest
import torch

from action_ddim import ActionTransformer1DModel
from action_ddim.training.optimizer import make_optimizer

LR, WEIGHT_DECAY = 1e-3, 0.1


@pytest.fixture
def stepped():
    """A denoiser, a copy of it before its first update, and the gradients of that."""
    torch.manual_seed(0)
    model = ActionTransformer1DModel(d_model=16, num_layers=2, nhead=2, patch_size=4, seq_len=20, rest_head=True)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    before = copy.deepcopy(model)
    optimizer = make_optimizer(model, "muon", LR, WEIGHT_DECAY)
    gradients = {}
    for name, parameter in model.named_parameters():
        parameter.grad = torch.randn_like(parameter)
        gradients[name] = parameter.grad.clone()
    optimizer.step()
    return dict(model.named_parameters()), dict(before.named_parameters()), gradients


def is_for_muon(name: str) -> bool:
    inside = any(name.startswith(part) for part in ("patch_in.", "time_embedding.", "blocks."))
    return inside and name.endswith("weight") and "qk_norm" not in name


def test_matrices_of_the_network_go_to_the_nearest_orthogonal_matrix_of_their_gradient(stepped):
    """U V^T of the gradient's U S V^T, as near as five iterations come: singular values from 0.7 to 1.2 (Jordan et al.)."""
    after, before, gradients = stepped
    names = [name for name in after if is_for_muon(name)]
    assert len(names) == 14  # two of the patches, two of the timestep, five in each of two blocks
    for name in names:
        rows, columns = gradients[name].flatten(1).shape
        U, S, Vh = torch.linalg.svd(gradients[name].flatten(1).double(), full_matrices=False)
        update = ((1 - 2 * LR * WEIGHT_DECAY) * before[name] - after[name]).flatten(1).double()
        said = U.T @ (update / (2 * LR * 0.2 * max(rows, columns) ** 0.5)) @ Vh.T
        torch.testing.assert_close(said, torch.diag(said.diagonal()), atol=2e-3, rtol=0)
        assert said.diagonal()[S / S[0] > 0.01].min() > 0.6, name
        assert said.diagonal().max() < 1.25, name


def test_all_else_goes_as_with_adamw(stepped):
    after, before, gradients = stepped
    others = {name: torch.nn.Parameter(value.detach().clone()) for name, value in before.items() if not is_for_muon(name)}
    for name, parameter in others.items():
        parameter.grad = gradients[name]
    torch.optim.AdamW(others.values(), lr=LR, betas=(0.9, 0.99), weight_decay=WEIGHT_DECAY).step()
    for name, parameter in others.items():
        torch.testing.assert_close(after[name], parameter, atol=1e-6, rtol=1e-5, msg=name)


def test_update_is_as_precise_as_its_matrices(stepped):
    """The same in float64 from the iteration's own formula; bfloat16 would be off by a hundredth."""
    after, before, gradients = stepped
    name = "blocks.0.qkv.weight"
    matrix = gradients[name].double().T
    matrix = matrix / matrix.norm()
    for _ in range(5):
        gram = matrix @ matrix.T
        matrix = 3.4445 * matrix + (-4.7750 * gram + 2.0315 * gram @ gram) @ matrix
    expected = (1 - 2 * LR * WEIGHT_DECAY) * before[name].double() - 2 * LR * 0.2 * 48**0.5 * matrix.T
    torch.testing.assert_close(after[name].double(), expected, atol=1e-6, rtol=0)
