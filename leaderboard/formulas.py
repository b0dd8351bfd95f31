"""What each check measures, as a formula in one line. ``z`` logits, ``m`` margin, ``L`` loss, ``g`` its gradient."""

NOTATION = (
    "x is an image, y its label, B(ε) the budget around x, z(x) the logits, m = z_y − max z_j the margin, L a loss, "
    "g its gradient at x, d a step; R the images a column calls robust; ‖·‖ is the L2 length. Medians and means are "
    "over images."
)
"""Read before the formulas."""

FORMULAS = {
    "C1": "rows of z that are not finite or not of width K; share with z₍₁₎ = z₍₂₎; different values in a row; share "
    "with a probability of exactly 1; share of gradients that are not finite",
    "C2": "max over images and pairs of 5 passes of ‖z_a/‖z_a‖ − z_b/‖z_b‖‖; images that change their class; states "
    "of "
    "the random generators before and after a pass",
    "C2-EOT": "mean over fresh passes of 1[f(x + d) = y] at the d that follows the mean gradient of 1, 5 and 20 "
    "passes; examples that most passes misclassify",
    "C3": "max |z_a − z_b| / max |z| between two ways to ask the same, and classes that change beyond a near tie, "
    "half of "
    "them at x + U(−ε, ε); images whose class is not the same in all records of the run, witnesses that do not hold",
    "C4": "max |z_a − z_b| / max |z| between batches; max |∂ Σ z(first half) / ∂ x(second half)|, which has to be "
    "exactly 0",
    "C5": "sha256 of all tensors and reachable values, and max |z_before − z_after| / max |z|, around a batch and an "
    "attack",
    "C6": "names and number of operations between x and z that round, cut, sort, draw or copy to the host; custom "
    "functions, hooks, calls of each layer, optimisation inside the pass",
    "C7": "q(h) = median ‖z(x + h s) − z(x)‖ for random signs s, h from 1e-5 to 3e-2; slope of log q over log h on "
    "[1e-4, 1e-2]; share of z that do not change by a bit; share of pairs x, x′ with ‖z(a) − z(b)‖ > ‖z(x) − z(x′)‖ "
    "/ 10 "
    "for the ends a, b of the way from x to x′ after 18 halvings, each keeping the half that changes more",
    "C8": "FD / AD with FD = (m(x + h v) − m(x − h v)) / 2h and AD = ⟨g, v⟩; |⟨u, Jv⟩ − ⟨Jᵀu, v⟩| between forward "
    "and "
    "reverse mode",
    "G1": "share of points with g = 0, with ‖g‖ < 1e-12, and share of zero entries of g, for cross-entropy, margin "
    "and "
    "DLR; share of points with a cross-entropy of exactly 0",
    "G2": "(standing under PGD on the cross-entropy − standing under the best of cross-entropy at the median "
    "margin’s "
    "temperature, margin, DLR) · clean accuracy, in points",
    "G3": "c1 = cos(g(x), g(x + u)), u uniform in B(ε); c2 = cos(FGSM’s d, PGD’s d); c3 = mean cos(PGD’s first step, "
    "later steps)",
    "G4": "slope = (L(x + d) − L(x)) / ⟨g, d⟩ after one full step; change = mean |L(x + u) − L(x)| / |L(x)| for u in "
    "B(ε/2)",
    "G5": "β(h) = least-squares slope of FD_h on AD over random directions at h = ε/16, ε/4, ε; successes of PGD "
    "that "
    "descends the loss, and of PGD on the mean gradient of noisy copies",
    "A1": "share of R that PGD in the whole box [0, 1] (100 steps) leaves standing",
    "A2": "ratio = accuracy(2ε) / accuracy(ε) under PGD, judged by the lower end of its 95 % interval; violations = "
    "share that falls at some ε₁ and stands at ε₂ > "
    "ε₁; accuracy at 8ε",
    "A3": "accuracy(FGSM) − accuracy(PGD), in points; distorted = share that falls at k ε/10, k < 10, and stands at ε",
    "A4": "share of R that 80 steps and more starts break; share whose best loss, scaled to its range, still grows "
    "by "
    "more than 0.05 in the last ten steps",
    "A5": "stored adversarial examples outside the budget or the box; share that no longer fool; images for which an "
    "attack met a misclassified point and returned another",
    "A6": "examples of R that Square, NES or the label-only RayS break",
    "A7": "examples of R that uniform, corner, normal or one-colour draws break",
    "A8": "examples of R that fall to attacks on a part of the network with K outputs, alone or within it, or to "
    "stored adversarial "
    "examples of other submissions",
    "A9": "examples of R that Auto-PGD breaks through straight-through forms of the network (forward f, backward the "
    "identity where an operation stops the gradient), its logarithm or its float64 form",
    "A10": "share of linear readouts with an adversarial example by construction for which the attack finds one",
    "D1": "accuracy lost under x ± 1/255, x + 1e-6, mirroring and a shift by a pixel; loss of robustness when "
    "mirrored; buffers as long as the test set",
    "I1": "median |⟨x, g⟩| / ‖g‖ and |cos(x, g)| for g of the margin; share of g’s energy that a 3×3 mean removes",
    "I2": "L(x + a d) for a from −2 to 2 budgets, d the gradient’s direction and a random one at a right angle; "
    "bend = "
    "largest distance from the best line over the range",
}
"""By check; a test asks for one for every registered check."""
