"""Shapes in annotations: jaxtyping's where it is installed (tests check them at run time), else the bare type."""

try:
    from jaxtyping import Bool, Float, Int
except ImportError:

    class _Unchecked:
        """`Float[Tensor, "B N"]` means Tensor."""

        def __class_getitem__(cls, annotation: tuple) -> type:
            return annotation[0]

    Bool = Float = Int = _Unchecked  # type: ignore[assignment]

__all__ = ["Bool", "Float", "Int"]
