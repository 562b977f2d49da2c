"""What a network learns from the predictions of others.

Hinton et al., "Distilling the Knowledge in a Neural Network", 2015. The teachers see the same
augmented and mixed images as the student: Beyer et al., "Knowledge distillation: A good teacher is
patient and consistent", CVPR 2022.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float


class Distillation(NamedTuple):
    """A second target for a network: the predictions of its teachers.

    Attributes:
      predict: function from the teachers' weights, images in [0, 1] and a temperature to
        probabilities, Float[batch, classes].
      weight: share of this target in the loss.
      temperature: divides the logits of teachers and student.
    """

    predict: Callable[[Any, Array, float], Float[Array, "batch classes"]]
    weight: float
    temperature: float

    def mix_in(
        self,
        loss: Float[Array, " batch"],
        logits: Float[Array, "batch classes"],
        images: Float[Array, "batch size size channels"],
        teachers: Any,
    ) -> Float[Array, " batch"]:
        """Returns the loss of each image, of which `weight` is the divergence from the teachers.

        The divergence, KL(teachers || student), is multiplied by the squared temperature, so that
        its gradients do not depend on it (Hinton et al., section 2).
        """
        theirs = self.predict(teachers, images, self.temperature)
        ours = jax.nn.log_softmax(logits / self.temperature)
        divergence = (jax.scipy.special.xlogy(theirs, theirs) - theirs * ours).sum(axis=-1)
        return (1 - self.weight) * loss + self.weight * self.temperature**2 * divergence
