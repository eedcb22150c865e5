"""PyTorch's side of the comparison; see compare.py."""

import torch

import worker

torch.set_num_threads(2)


class Case:
    def __init__(self, tensors):
        self.leaf = torch.from_numpy(tensors["input"]).requires_grad_()
        self.targets = torch.from_numpy(tensors["targets"])
        self.input_lengths = tuple(tensors["input_lengths"].tolist())
        self.target_lengths = tuple(tensors["target_lengths"].tolist())

    def loss(self, mode, leaf, reduction):
        if mode == "logits":
            leaf = torch.nn.functional.log_softmax(leaf, 2)
        return torch.nn.functional.ctc_loss(
            leaf, self.targets, self.input_lengths, self.target_lengths, reduction=reduction
        )

    def run(self, mode):
        if mode == "score":
            with torch.no_grad():
                return self.loss(mode, self.leaf, "sum").item()
        self.leaf.grad = None
        self.loss(mode, self.leaf, "sum").backward()

    def result(self, mode):
        # "truth" modes are the same in f64.
        leaf = self.leaf.detach()
        if mode.startswith("truth-"):
            mode = mode.removeprefix("truth-")
            leaf = leaf.double()
        leaf.requires_grad_()
        losses = self.loss(mode, leaf, "none")
        losses.sum().backward()
        return {"losses": losses.detach().numpy(), "gradient": leaf.grad.numpy()}


worker.serve(Case)
