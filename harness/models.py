"""The network an attack sees: a thin module that asks a model worker, or the network itself for code you trust."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from harness.worker.handle import ModelWorker
from harness.worker.loading import LoadError, load
from harness.worker.network import MICRO_BATCH, Network, OutputError, empty_logits
from harness.worker.optimise import near_form, optimise
from harness.worker.options import KINDS, Description, WorkerError, WorkerOptions
from harness.worker.variants import Variants
from harness.worker.weights import frozen
from harness.worker.windows import Windows

__all__ = ["KINDS", "Description", "LocalModel", "ModelWorker", "RemoteModel", "WorkerError", "WorkerOptions"]

Hook = Callable[[Tensor], None]
"""Called with the images (N, C, H, W) of a forward pass, or with those of a backward pass that a gradient came from."""


def _asked(x: Tensor, grad_logits: Tensor) -> Tensor:
    """The images whose logits a backward pass starts from."""
    asked = grad_logits.ne(0).any(1)
    return x.detach() if bool(asked.all()) else x.detach()[asked]


def _nonfinite_rows(gradient: Tensor) -> int:
    """Rows with a value that is not finite."""
    # The sum of a row is finite unless one of its values is not, and costs a third of looking at each.
    rows = gradient.detach().flatten(1)
    if bool(rows.sum().isfinite()):
        return 0
    return int((~rows.isfinite().all(1)).sum())


class Answering(Protocol):
    """The part of a model worker that a network's proxy needs."""

    def forward(self, x: Tensor, *, grad: bool = False, variant: int = 0) -> tuple[Tensor, int]:
        """Logits, and a token for the gradient."""
        ...

    def near(self, x: Tensor, numbers: list[int], placed: list[int], images: Tensor, *, variant: int = 0) -> Tensor:
        """Logits of images near known ones."""
        ...

    def variant(self, **spec: object) -> int:
        """The number of another form of the network."""
        ...

    def about(self, variant: int) -> dict[str, Any]:
        """What is worth knowing about it."""
        ...

    def vjp(self, token: int, grad_logits: Tensor) -> Tensor:
        """Gradient with respect to the images."""
        ...

    def release(self, token: int) -> None:
        """Forget the graph behind a token."""
        ...


class _Lease:
    """Keeps the worker's graph for as long as autograd keeps this object."""

    def __init__(self, worker: Answering) -> None:
        self.worker, self.token = worker, 0

    def __del__(self) -> None:
        self.worker.release(self.token)


class _FirstOrderOnly(torch.autograd.Function):
    """The identity; its own gradient is refused."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor, grad_logits: Tensor) -> Tensor:  # noqa: ANN401
        """Pass ``gradient`` on; it hangs on ``x`` and ``grad_logits``."""
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: ANN401
        """Always refuses."""
        raise RuntimeError(
            "second derivatives of a submission are not available: its worker answers first-order gradients alone; "
            "differentiate without create_graph=True"
        )


class _Ask(torch.autograd.Function):
    """Logits of the worker's network; its gradient is the worker's vector-Jacobian product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, model: "RemoteModel", lease: _Lease) -> Tensor:  # noqa: ANN401
        """Logits (N, K) of images (N, C, H, W)."""
        logits, lease.token = model.ask(x, grad=True)
        ctx.model, ctx.token = model, lease.token
        ctx.save_for_backward(x)
        return logits

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: ANN401
        """Gradient (N, C, H, W)."""
        (x,) = ctx.saved_tensors
        gradient = ctx.model.worker.vjp(ctx.token, grads[0])
        ctx.model.nonfinite_gradients += _nonfinite_rows(gradient)
        if ctx.model.on_backward is not None:
            ctx.model.on_backward(_asked(x, grads[0]))
        if torch.is_grad_enabled():
            gradient = _FirstOrderOnly.apply(gradient, x, grads[0])
        return gradient, None, None


class RemoteModel(nn.Module):
    """The network of a worker as attacks see it: float32 images (N, C, H, W) in [0, 1] to logits (N, K), on x's device.

    ``model(x)`` and first-order gradients with respect to ``x`` work as usual, several times over one graph if it is
    retained; there are no parameters and no submodules. The worker keeps a graph exactly as long as autograd keeps
    this side of it. Every failure is a ``WorkerError``.
    """

    def __init__(
        self,
        worker: Answering,
        *,
        variant: int = 0,
        search: str = "",
        on_forward: Hook | None = None,
        on_backward: Hook | None = None,
    ) -> None:
        """``variant`` is a number from ``ModelWorker.variant``. With ``search="bfloat16"`` answers and gradients come
        from a pass in bfloat16, and ``exact`` gives logits in full precision.
        """
        super().__init__()
        if search not in {"", "bfloat16"} or (search and variant):
            raise ValueError(f"search: expected '' or 'bfloat16', without a variant, got {search!r}, variant {variant}")
        self.worker = worker
        self.number = worker.variant(kind="dtype", dtype=search) if search else variant
        self.exact: Callable[[Tensor], Tensor] | None = self._exact if search else None
        """Logits in full precision of images (N, C, H, W); None when ``forward`` gives them already."""
        self.nonfinite_gradients = 0
        """Rows of gradients with a value that was not finite, of all that were asked for."""
        self.on_forward, self.on_backward = on_forward, on_backward
        self.eval()

    def variant(self, **spec: object) -> "RemoteModel":
        """Another form of the same network, with hooks and counts of its own. Raises ``WorkerError``."""
        return RemoteModel(self.worker, variant=self.worker.variant(**spec))

    @property
    def about(self) -> dict[str, Any]:
        """What is worth knowing about a variant, as in ``ModelWorker.about``."""
        return dict(self.worker.about(self.number)) if self.number else {}

    def ask(self, x: Tensor, *, grad: bool = False) -> tuple[Tensor, int]:
        """As ``ModelWorker.forward``, of this form of the network."""
        if not self.number:
            return self.worker.forward(x, grad=grad)
        return self.worker.forward(x, grad=grad, variant=self.number)

    def near(self, x: Tensor, numbers: list[int], placed: list[int], images: Tensor) -> Tensor:
        """As ``ModelWorker.near``, of this form of the network."""
        logits = self.worker.near(x, numbers, placed, images, variant=self.number)
        if self.on_forward is not None:
            self.on_forward(x.detach())
        return logits

    def _exact(self, x: Tensor) -> Tensor:
        logits, _ = self.worker.forward(x)
        if self.on_forward is not None:
            self.on_forward(x.detach())
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        if torch.is_grad_enabled() and x.requires_grad and len(x):
            lease = _Lease(self.worker)
            # What autograd saves for the backward pass carries the lease: both are dropped at the same moment.
            with torch.autograd.graph.saved_tensors_hooks(lambda saved: (saved, lease), lambda packed: packed[0]):
                logits: Tensor = _Ask.apply(x, self, lease)
        else:
            logits, _ = self.ask(x)
            if len(x) == 0:
                logits = empty_logits(x, logits.shape[1])
        if self.on_forward is not None:
            self.on_forward(x.detach())
        return logits


class LocalModel(nn.Module):
    """The same interface on a network in this process, asked in the same way: for the Python API and code you trust."""

    def __init__(
        self,
        network: nn.Module,
        options: WorkerOptions | None = None,
        *,
        on_forward: Hook | None = None,
        on_backward: Hook | None = None,
    ) -> None:
        """Take ``network`` over: it is frozen, put into eval mode and, where the options say so, optimised in place."""
        super().__init__()
        options = options or WorkerOptions()
        kind = "cuda" if options.device.startswith("cuda") else "cpu"
        module = frozen(network)
        self.network = Network(module, micro_batch=options.micro_batch or MICRO_BATCH[kind], device=options.device)
        self.optimisations = optimise(self.network, options.image_shape, enabled=options.optimise)
        self._forms = Variants(self.network, options.image_shape)
        self._windows: Windows | None = None
        self.about: dict[str, Any] = {}
        """What is worth knowing about a variant, as in ``ModelWorker.about``."""
        self.nonfinite_gradients = 0
        """Rows of gradients with a value that was not finite, of all that were asked for."""
        self.on_forward, self.on_backward = on_forward, on_backward
        self.eval()

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], options: WorkerOptions | None = None) -> Self:
        """Build a submission in this process, from what ``Submission.spec()`` returns. Raises ``WorkerError``."""
        try:
            return cls(load(spec), options)
        except LoadError as error:
            raise WorkerError(error.kind, str(error)) from error

    def variant(self, **spec: object) -> "LocalModel":
        """Another form of the same network, with hooks and counts of its own. Raises ``WorkerError``."""
        try:
            number, about = self._forms.add(spec)
        except LoadError as error:
            raise WorkerError(error.kind, str(error)) from error
        other = LocalModel(nn.Identity(), WorkerOptions(optimise=False))
        other.network, other._forms, other.about = self._forms.get(number), self._forms, about
        return other

    def near(self, x: Tensor, numbers: list[int], placed: list[int], images: Tensor) -> Tensor:
        """As ``ModelWorker.near``."""
        self._windows = self._windows or Windows(near_form(self.network, x.shape[1:]))
        self._windows.place(placed, images)
        try:
            logits = self._windows.ask(x, numbers)
        except OutputError as error:
            raise WorkerError("contract", str(error)) from error
        if self.on_forward is not None:
            self.on_forward(x.detach())
        return logits

    def _counted(self, x: Tensor) -> Tensor:
        """``x``, whose gradient is looked at as it comes by."""
        if not (torch.is_grad_enabled() and x.requires_grad):
            return x

        def count(gradient: Tensor) -> None:
            self.nonfinite_gradients += _nonfinite_rows(gradient)

        x = x.view_as(x)
        x.register_hook(count)  # type: ignore[no-untyped-call]
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K); ``WorkerError`` of kind ``contract`` when the network returns something else."""
        try:
            logits: Tensor = self.network(self._counted(x))
        except OutputError as error:
            raise WorkerError("contract", str(error)) from error
        if self.on_backward is not None and logits.requires_grad:
            on_backward, images = self.on_backward, x.detach()
            logits.register_hook(lambda grad: on_backward(_asked(images, grad)))  # type: ignore[no-untyped-call]
        if self.on_forward is not None:
            self.on_forward(x.detach())
        return logits
