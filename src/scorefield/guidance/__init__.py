"""Conditioning: scores wrapped in scores by Bayes' rule, so that every sampler and the likelihood work with them."""

from scorefield.guidance.algebra import Mixture, Product, mixture, product
from scorefield.guidance.bayes import Bayes, PlugIn, bayes, classifier, plug_in
from scorefield.guidance.classifiers import NoisyClassifier
from scorefield.guidance.free import ClassifierFree, classifier_free
from scorefield.guidance.inpainting import Inpainting, RePaint, inpaint
from scorefield.guidance.linear import Posterior, posterior
from scorefield.guidance.operators import Operator, averaged, blurred, grey, masked
from scorefield.guidance.particles import Particles, Twisted, smc

__all__ = [
    "Bayes",
    "ClassifierFree",
    "Inpainting",
    "Mixture",
    "NoisyClassifier",
    "Operator",
    "Particles",
    "PlugIn",
    "Posterior",
    "Product",
    "RePaint",
    "Twisted",
    "averaged",
    "bayes",
    "blurred",
    "classifier",
    "classifier_free",
    "grey",
    "inpaint",
    "masked",
    "mixture",
    "plug_in",
    "posterior",
    "product",
    "smc",
]
