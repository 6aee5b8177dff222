"""More for `mutants.py`: what judges a model, what shows the theory, and what reads other people's files."""

from __future__ import annotations

from mutations import of

JUDGING = [
    *of(
        "metrics/frechet.py",
        "test_metrics.py::test_the_frechet_distance_of_exact_moments_is_the_closed_form",
        ("covariances over n", "math.sqrt(len(x) - 1) for x", "math.sqrt(len(x)) for x"),
        ("the cross term once", "- 2 * both", "- both"),
    ),
    *of(
        "metrics/frechet.py",
        "metrics/test_frechet.py",
        ("the limit goes half the way", "(2 * _distance(a, b) - mean)", "(1.5 * _distance(a, b) - 0.5 * mean)"),
        ("strata are forgotten", "generator, strata=strata)\n", "generator)\n"),
        ("exactly 2 k rows are too few", "if len(x) < 2 * k:", "if len(x) <= 2 * k:"),
    ),
    *of(
        "metrics/pairs.py",
        "metrics/test_pairs.py",
        ("products not about a common origin", "origin = y.mean(0)", "origin = 0 * y.mean(0)"),
        (
            "places by the products, not by the distances",
            "apart.argsort(dim=1, stable=True)[:, :count]",
            "torch.arange(count).expand(len(rows), count)",
        ),
        ("no candidates beyond those asked for", "min(count + 2, ", "min(count, "),
        ("halves share a row", "order[n // 2 : n // 2 * 2]", "order[n // 2 - 1 : n // 2 * 2 - 1]"),
        ("halves by chance in spite of strata", "order[strata.cpu()[order].argsort(stable=True)]", "order"),
        ("the whole difference of the halves", "((x - y) / 2).square()", "(x - y).square()"),
    ),
    *of(
        "metrics/pairs.py",
        "test_metrics.py::test_the_kernel_distance_equals_torchmetrics_on_all_rows",
        ("a row meets itself", "block.diagonal(start).fill_(0)", "block.diagonal(start)"),
        ("over all columns, without a row's own", "[], 0.0, len(y) - same", "[], 0.0, len(y)"),
    ),
    *of(
        "metrics/pairs.py",
        "test_metrics.py::test_the_kernel_sums_do_not_depend_on_the_block",
        ("the first block's diagonal in all", "block.diagonal(start).fill_(0)", "block.diagonal(0).fill_(0)"),
    ),
    *of(
        "metrics/pairs.py",
        "test_metrics.py::test_mmd_is_unbiased_for_gaussians_and_its_standard_error_calibrated",
        ("the variance's first term without its 4", "4 * first_a / n + 4 * first_b / m", "first_a / n + first_b / m"),
        ("no second term", "4 * first_b / m + second)", "4 * first_b / m)"),
        ("the witness's own error is left in", " - norm_a / (n - 1) - both / m", ""),
        ("the cross term's variance left out", " + 4 * both / (n * m)", ""),
        ("the kernel is centred at twice its mean", "row_means - row_means.mean() / 2", "row_means - row_means.mean()"),
    ),
    *of(
        "metrics/manifolds.py",
        "metrics/test_manifolds.py",
        ("one neighbour further", "kthvalue(neighbours, dim=1)", "kthvalue(neighbours + 1, dim=1)"),
        ("a row is its own neighbour", "squares.diagonal(start).fill_(torch.inf)", "squares.diagonal(start)"),
        ("density is not over k", "balls.double().mean() / neighbours", "balls.double().mean()"),
        ("the last block's coverage", "covered |= inside.any(0)", "covered = inside.any(0)"),
        ("samples for real rows in the expectation", "missed *= (m - j)", "missed *= (n - j)"),
        ("no Wilson interval above", "max(high, p + Z95 * e)", "p + Z95 * e"),
    ),
    *of(
        "metrics/manifolds.py",
        "metrics/test_pairs.py::test_precision_and_recall_change_places_with_the_sets",
        (
            "precision and recall swapped",
            "[inside_b.double().mean(), inside_a.double().mean()]",
            "[inside_a.double().mean(), inside_b.double().mean()]",
        ),
        ("coverage for recall", "inside_a, _, _ = _in_balls(b, a,", "_, _, inside_a = _in_balls(a, b,"),
        (
            "recall out of the samples",
            '_share(values[1], errors[1], len(b), len(a), f"recall',
            '_share(values[1], errors[1], len(a), len(a), f"recall',
        ),
    ),
    *of(
        "metrics/estimate.py",
        "metrics/test_pairs.py test_metrics.py::test_class_agreement_has_wilsons_interval",
        ("one-sided", "Z95 = 1.959963984540054", "Z95 = 1.6448536269514722"),
        ("Wilson's centre", "Z95**2 / (2 * trials)", "Z95**2 / trials"),
        ("Wilson's half width", "Z95**2 / (4 * trials**2)", "Z95**2 / (4 * trials)"),
        ("a Poisson error", "Estimate(p, math.sqrt(p * (1 - p) / trials)", "Estimate(p, math.sqrt(p / trials)"),
    ),
    *of(
        "metrics/vectors.py",
        "test_metrics.py::test_mmd_is_unbiased_for_gaussians_and_its_standard_error_calibrated "
        "test_metrics.py::test_mmd_takes_the_median_distance_and_any_shape",
        ("h² for 2 h²", "/ (-2 * bandwidth**2)", "/ -(bandwidth**2)"),
    ),
    *of(
        "metrics/vectors.py",
        "metrics/test_pairs.py::test_two_sets_are_told_apart_whatever_the_units_of_their_columns",
        ("columns in their own units", "make_pipeline(StandardScaler(), KNei", "make_pipeline(KNei"),
    ),
    *of(
        "metrics/vectors.py",
        "test_metrics.py::test_the_fisher_divergence_of_scaled_gaussians_has_its_closed_form_and_a_calibrated_error",
        ("Fisher divergence with ½", "squares = inner(apart, apart)", "squares = inner(apart, apart) / 2"),
        ("the spread for the error", "squares.std().item() / math.sqrt(len(x))", "squares.std().item()"),
    ),
    *of(
        "metrics/features.py",
        "test_metrics.py::test_the_kernel_distance_equals_torchmetrics_on_all_rows",
        ("the kernel without 1/k", "(x @ y.mT / x.shape[1] + 1)", "(x @ y.mT + 1)"),
    ),
    *of(
        "metrics/features.py",
        "test_metrics.py::test_the_inception_score_equals_torchmetrics "
        "test_metrics.py::test_the_standard_error_of_the_inception_score_is_calibrated",
        ("the mean of the exponentials", "kl.mean().exp()", "kl.exp().mean()"),
        ("one part's error is that of the logarithm", "scores[0] * divergences[0].std()", "divergences[0].std()"),
        ("the parts' spread for the error", "scores.std() / math.sqrt(splits)", "scores.std()"),
    ),
    *of(
        "metrics/memory.py",
        "metrics/test_memory.py",
        ("the other tail of the permutations", "(permuted >= found - 1e-9)", "(permuted <= found + 1e-9)"),
        ("chance by the held-out rows", "float(found / n), n_train / total", "float(found / n), n_held / total"),
        ("weights about no mean", " - weights.sum() ** 2 / total", ""),
        ("held-out rows as their own reference", "nearest_rows(judged, train, 2)", "nearest_rows(judged, held_out, 2)"),
        ("fewer copies than held-out rows", 'alternative="greater"', 'alternative="less"'),
        ("the ratio the other way", "d[:, 0] <= ratio * d[:, 1]", "ratio * d[:, 0] <= d[:, 1]"),
        ("ties do not narrow U", "(total + 1 - float(", "(total + 1 - 0 * float("),
        ("the other tail of the shift", "norm.cdf(value / error)", "norm.sf(value / error)"),
        ("cells as if there were one", "np.sqrt((weights**2).sum())", "np.sqrt(weights.sum())"),
    ),
    *of(
        "evaluation/rows.py",
        "evaluation/test_rows_judged.py::test_the_interval_of_a_median_covers_whatever_the_law "
        "evaluation/test_rows_judged.py::test_rows_held_out_class_by_class_are_halved_class_by_class",
        ("the median's interval twice as wide", "0.98 * n**0.5", "1.96 * n**0.5"),
        ("half the interval for the error", "/ 3.92", "/ 1.96"),
        ("strata are forgotten", "held_out, strata=strata, generator", "held_out, generator"),
    ),
    *of(
        "evaluation/rows.py",
        "evaluation/test_figures.py::test_noise_and_wrong_labels_are_found",
        (
            "samples and real data change places",
            "(frechet_distance(x, held_out, **how) for x in (samples, train))",
            "(frechet_distance(x, held_out, **how) for x in (train, samples))",
        ),
        ("the samples' own neighbours beside them", "median(found.held_out_distances)", "median(found.distances)"),
    ),
    *of(
        "evaluation/rows.py",
        "evaluation/test_features.py::test_rows_of_another_source_stand_in_for_held_out_ones",
        ("precision for recall", "precision_recall(x, held_out, gen", "precision_recall(held_out, x, gen"),
    ),
    *of(
        "evaluation/sets.py",
        "evaluation/test_rows_judged.py::"
        "test_as_many_training_rows_stand_beside_the_samples_and_none_of_them_is_held_out",
        (
            "held-out rows for those of training",
            "_some(data, data.train_rows, n, seed + 1)",
            "_some(data, data.held_out_rows, n, seed + 1)",
        ),
        ("learned from held-out rows", "_some(data, data.train_rows, MOST, ", "_some(data, data.held_out_rows, MOST, "),
        ("strata of a part", "strata = held_labels if whole else None", "strata = held_labels"),
    ),
    *of(
        "evaluation/images.py",
        "evaluation/test_rows_judged.py",
        (
            "the classifier learns from what it judges",
            "fit(components.of(sets.learned)[0].numpy(), labels)",
            "fit(components.of(sets.held_out)[0].numpy(), sets.held_out_labels)",
        ),
        ("training rows beside themselves", "(kernel_distance(x, held) for", "(kernel_distance(x, train) for"),
    ),
    *of(
        "evaluation/judge.py",
        "evaluation/test_features.py::test_bits_per_dimension_stand_beside_those_of_training_images "
        "evaluation/test_figures.py::test_noise_and_wrong_labels_are_found",
        (
            "training bits for held-out ones",
            "in (data.held_out_rows, data.train_rows))",
            "in (data.train_rows, data.held_out_rows))",
        ),
        ("bits on a grid of two", "bin_width=1.0", "bin_width=2.0"),
    ),
    *of(
        "evaluation/judge.py",
        "evaluation/test_figures.py::test_real_images_pass_as_real",
        ("copies of held-out rows", "for rows in (data.train_rows, order))", "for rows in (order, data.train_rows))"),
    ),
    *of(
        "evaluation/levels.py",
        "evaluation/test_figures.py::test_loss_by_level_of_a_zero_field_is_one evaluation/test_rows_judged.py",
        ("half the loss", "2 * loss.double() / x[0]", "loss.double() / x[0]"),
        ("over all numbers", "/ x[0].numel()", "/ x.numel()"),
        ("levels the other way round", "noise.times(levels - 1).flip(0)", "noise.times(levels - 1)"),
        ("the spread for the error", "per_dimension.std() / len(x) ** 0.5", "per_dimension.std()"),
    ),
    *of(
        "evaluation/levels.py",
        "evaluation/test_figures.py::test_the_objective_of_one_law_stands_beside_its_value_on_training_rows",
        (
            "training rows for held-out ones",
            "in (run.dataset.held_out_rows, run.dataset.train_rows))",
            "in (run.dataset.train_rows, run.dataset.held_out_rows))",
        ),
    ),
    *of(
        "evaluation/vectors.py",
        "evaluation/test_figures.py::test_one_law_is_held_against_the_truth_of_its_own_blur",
        ("the true score in the data's units", "self.scale * self.law.score(", "self.law.score("),
        ("covariances over one scale", "(scale[:, None] * scale[None, :])", "scale[:, None]"),
        ("means not moved", "(truth.means - mean) / scale", "truth.means / scale"),
        ("the blur's deviation for its variance", "sigma**2 * torch.eye", "sigma * torch.eye"),
    ),
    *of(
        "evaluation/features.py",
        "evaluation/test_features.py::test_a_torchscript_network_gives_features_named_after_its_file",
        ("bytes wrap around", "np.clip(np.rint(images), 0, 255)", "np.rint(images)"),
        ("logits for features", 'if "return_features" in takes', 'if "return_features" not in takes'),
    ),
    *of(
        "evaluation/classifier.py",
        "evaluation/test_evaluate_cli.py::test_features_are_learned_and_their_accuracy_is_told",
        ("its accuracy on training rows", "rows = dataset.held_out_rows", "rows = dataset.train_rows"),
    ),
    *of(
        "data/pickles.py",
        "data/test_data_hostile.py::test_instructions_and_globals_outside_the_format_are_refused_by_name",
        ("all of numpy", 'name in ("ndarray", "dtype")', "name"),
        ("all of numpy's core", 'module in NUMPY and name == "_reconstruct"', "module in NUMPY"),
        ("any dtype", "if name not in DTYPES:", "if not name:"),
        ("one instruction too many", '("PROTO", "FRAME"):', '("PROTO", "FRAME", "BINPERSID"):'),
        ("globals as values", "in (_Global, _Dtype):", "in (_Dtype,):"),
    ),
    *of(
        "data/pickles.py",
        "data/test_data_sets.py::test_a_python_batch_is_what_pythons_own_unpickler_finds "
        "data/test_data_sets.py::test_plain_values_come_back_as_they_were "
        "data/test_data_sets.py::test_arrays_of_every_plain_dtype_come_back_as_they_were data/test_data_edges.py",
        ("rows for columns", '"F" if by_columns else "C"', '"C" if by_columns else "F"'),
        ("the byte order is lost", 'dtype.order.replace("|", "") + dtype.name', "dtype.name"),
        ("numbers as keys", "type(key) not in (str, bytes)", "type(key) not in (str, bytes, int)"),
    ),
    *of(
        "data/cifar.py",
        "data/test_data_sets.py::test_cifar10_is_the_same_packed_and_unpacked data/test_data_edges.py",
        ("the label is the last byte", "records[:, 1:], records[:, 0]", "records[:, :-1], records[:, -1]"),
        ("images in the archive's order", "[found[name][0] for name in names]", "[found[name][0] for name in found]"),
        ("an eleventh class", "labels.max() < len(CLASSES)", "labels.max() <= len(CLASSES)"),
        ("more labels than images", "len(labels) == len(pixels) and ", ""),
    ),
    *of(
        "data/cifar.py",
        "data/test_data_sets.py::test_cifar10_that_is_damaged_or_not_whole_is_refused_by_name",
        ("a batch of another size", "if len(set(sizes)) > 1:", "if len(set(sizes)) > 2:"),
    ),
    *of(
        "data/archives.py",
        "data/test_data_hostile.py data/test_data_edges.py::test_a_sparse_member_is_refused",
        ("paths upwards", 'or ".." in place.parts ', ""),
        ("hard links", "(tarfile.REGTYPE, tarfile.AREGTYPE)", "(tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.LNKTYPE)"),
        ("sparse files", " and not info.sparse", ""),
        ("links in a zip", "(0, stat.S_IFREG, stat.S_IFDIR)", "(0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)"),
        ("members that overlap", "sum(i.compress_size for i in infos) > size or ", ""),
        ("a bomb in a tar", "if self._left < 0:", "if self._left < -(10**9):"),
        ("headers without end", "if self.allowance < 0:", "if self.allowance < -(10**8):"),
        ("a tar without its zeros", "self._end != bytes(512)", "len(self._end) != 512"),
    ),
    *of(
        "data/idx.py",
        "data/test_data_readers.py::test_idx_files_are_read_and_checked data/test_data_edges.py",
        ("lengths with the small end first", 'dtype=">u4"', 'dtype="<u4"'),
        ("what is left over is passed over", "file.read(due + 1)", "file.read(due)"),
    ),
    *of(
        "data/celeba.py",
        "data/test_data_sets.py::test_celeba_is_the_training_partition_cropped_resized_and_labelled",
        ("the crop one pixel down", "(HEIGHT - CROP) // 2", "(HEIGHT - CROP) // 2 + 1"),
        ("no filter", "Resampling.BILINEAR", "Resampling.NEAREST"),
        (
            "the validation partition too",
            '_partition(folder, file, cells) == "0"',
            '_partition(folder, file, cells) != "2"',
        ),
        ("faces in the archive's order", "stack.array(np.argsort(found).tolist())", "stack.array()"),
    ),
    *of(
        "data/arrays.py",
        "data/test_data_columnar.py::test_parquet_reads_what_pandas_wrote",
        ("the label is a column too", "only or names if name != label_column]", "only or names]"),
    ),
    *of(
        "data/columnar.py",
        "data/test_data_columnar.py data/test_data_edges.py",
        ("doubles cut to singles", "np.float32 if small else np.float64", "np.float32"),
        ("labels that are missing", "if column.null_count:", "if column.null_count > 9:"),
        ("codecs that could run code", '"sharding_indexed", "vlen-utf8"', '"sharding_indexed", "vlen-utf8", "pickle"'),
        ("codecs inside others are not seen", "if isinstance(value, (dict, list))]", "if isinstance(value, list)]"),
        ("the last row is lost", "range(0, array.shape[0], step)", "range(0, array.shape[0] - 1, step)"),
    ),
    *of(
        "experiments/lyu.py",
        "experiments/test_experiments_plane.py::test_both_sides_of_lyus_theorem_agree_within_their_standard_error "
        "experiments/test_experiments_figures.py::test_both_columns_of_lyus_table_fall_and_their_difference_is_noise",
        ("d/dt KL = -D_F, without its ½", "inner(apart, apart) / 2", "inner(apart, apart)"),
        ("a difference over half the way", "/ (12 * h)", "/ (6 * h)"),
        ("the variance for the deviation", "x + t**0.5 * z", "x + t * z"),
        ("half the noise in the laws", "variance * torch.eye", "variance / 2 * torch.eye"),
        ("the divergence grows", "left.mean().item(), -half.mean().item()", "left.mean().item(), half.mean().item()"),
    ),
    *of(
        "experiments/lyu.py",
        "experiments/test_experiments_plane.py::"
        "test_score_matching_is_the_more_stable_for_two_modes_and_the_less_for_heavy_tails",
        ("the grid's measure is left out", ".exp() * u.cosh()", ".exp()"),
        ("data blurred by t² for t", "math.sqrt(variance) * z", "variance * z"),
    ),
    *of(
        "experiments/low_density.py",
        "experiments/test_experiments_figures.py::test_arrows_are_off_from_45_degrees_on "
        "experiments/test_experiments_plane.py::test_regions_of_the_exact_score_show_no_error_and_of_its_opposite_all",
        ("off from 60° on", "< 0.5**0.5", "< 0.5"),
        ("the thinnest first", "sort(descending=True)", "sort()"),
        (
            "the error is not relative",
            "(learned(x) - true).norm(dim=1) / true.norm(dim=1)",
            "(learned(x) - true).norm(dim=1)",
        ),
    ),
    *of(
        "experiments/mixing.py",
        "experiments/test_experiments_plane.py::test_annealing_finds_the_weight_that_langevin_does_not "
        "experiments/test_experiments_plane.py::"
        "test_a_network_anneals_in_its_own_units_and_answers_in_those_of_the_data",
        ("a wrong ε: of the first level", "noise.sigma(times[-1]).item() ** 2", "noise.sigma(times[0]).item() ** 2"),
        ("a wrong ε: σ for σ²", "noise.sigma(times[-1]).item() ** 2", "noise.sigma(times[-1]).item()"),
        ("levels in the units of the data", "sigma / float(scaling.scale.mean())", "sigma"),
    ),
    *of(
        "experiments/sde.py",
        "experiments/test_experiments_plane.py::test_noising_by_exact_transitions_has_the_laws_of_the_schedule "
        "experiments/test_experiments_plane.py::test_order_is_one_for_equal_ranks_and_minus_one_for_reversed_ones "
        "experiments/test_experiments_figures.py::test_reverse_and_forward_are_compared_at_the_same_times",
        ("the ratio of the signal is not squared", "ratio**2 * sigma[k - 1] ** 2", "ratio * sigma[k - 1] ** 2"),
        ("no noise at the first time", "alpha[0] * x + sigma[0] *", "alpha[0] * x + 0 *"),
        ("places for ranks", "v.argsort().argsort()", "v.argsort()"),
        ("other times than those said", "(times - t).abs().argmin()", "(times - t).abs().argmax()"),
    ),
    *of(
        "experiments/annealing.py",
        "experiments/test_experiments_levels.py::"
        "test_the_strength_of_an_exact_score_is_its_own_and_bounded_by_the_gaussians "
        "experiments/test_experiments_levels.py::test_the_power_of_a_gaussian_score_is_the_trace_of_its_precision",
        ("twice the signal-to-noise ratio", "epsilon / noise.sigma_min**2 / 2", "epsilon / noise.sigma_min**2"),
        ("σ for σ² in the power", "inner(s, s).mean() * sigma**2 / d", "inner(s, s).mean() * sigma / d"),
    ),
    *of(
        "experiments/annealing.py",
        "experiments/test_experiments_figures.py",
        ("covariances over one scale", "law.covariances / (c[:, None] * c)", "law.covariances / c"),
        (
            "steps in proportion to σ",
            "(noise.sigma(level).item() / noise.sigma_min) ** 2",
            "(noise.sigma(level).item() / noise.sigma_min)",
        ),
        ("the covariance of held-out digits", "data.x_scaled(data.train_rows)", "data.x_scaled(data.held_out_rows)"),
    ),
    *of(
        "experiments/ddpm.py",
        "experiments/test_experiments_levels.py::test_the_terms_of_the_bound_add_up_to_bits_of_rows_on_a_grid",
        ("the width of the grid the other way", "(found.decoder - width)", "(found.decoder + width)"),
        ("bits of a row, not of a dimension", "unit = dimension * math.log(2)", "unit = math.log(2)"),
        (
            "steps even in time",
            'time_grid(run.noise, steps, spacing="log-snr")',
            'time_grid(run.noise, steps, spacing="time")',
        ),
    ),
    *of(
        "experiments/manifold.py",
        "experiments/test_experiments_figures.py",
        ("the variance for the deviation", "VARIANCE**0.5", "VARIANCE"),
        ("noise not in units of a pixel", "pixel * VARIANCE", "VARIANCE"),
        ("the loss of all dimensions", "curve.append(step.loss / ", "curve.append(step.loss + 0 * "),
        ("a rise for a fall", "np.median(before) - np.median(last)", "np.median(last) - np.median(before)"),
    ),
    *of(
        "experiments/ncsn.py",
        "experiments/test_experiments_levels.py::test_the_recipe_of_2019_in_scaled_units_is_that_on_pixels "
        "experiments/test_experiments_figures.py",
        ("ε in proportion to the reach", "EPSILON * reach**2", "EPSILON * reach"),
        ("another ε", "EPSILON = 2e-5", "EPSILON = 2e-4"),
        ("today's step for that of 2019", '"convention": "ncsn"', '"convention": "ncsnv2"'),
        ("a start that is not centred", "* reach - float(", "* reach + float("),
        ("levels down to a tenth", '"sigma_min": 0.01 * reach', '"sigma_min": 0.1 * reach'),
        ("the floor of a half beside itself", "real[COUNT : 2 * COUNT] @ basis", "real[:COUNT] @ basis"),
    ),
    *of(
        "experiments/objectives.py",
        "experiments/test_experiments_figures.py "
        "experiments/test_experiments_plane.py::test_each_term_alone_does_not_learn_and_both_together_do",
        ("the trace is subtracted", "half_square + parts[1] * trace", "half_square - parts[1] * trace"),
        ("the truth's half square is whole", '("∇ log p itself", power / 2,', '("∇ log p itself", power,'),
        ("the difference of the terms", "half_square + trace, error", "half_square - trace, error"),
    ),
    *of(
        "experiments/optimisation.py",
        "experiments/test_experiments_plane.py::test_a_temperature_scales_the_variance "
        "experiments/test_experiments_figures.py",
        ("the temperature's square", "score(u) / tau", "score(u) / tau**2"),
        ("a start half as wide", "2.5 * torch.randn", "1.25 * torch.randn"),
    ),
    *of(
        "experiments/optimisation.py",
        "experiments/test_experiments_plane.py::"
        "test_without_noise_every_particle_ends_at_a_mode_and_with_it_the_law_is_that_of_exact_draws",
        (
            "downhill",
            "chain(Ascent(STEP), density.prepared(), x,",
            "chain(Ascent(STEP), lambda u: -density.score(u), x,",
        ),
    ),
    *of(
        "experiments/fields.py",
        "experiments/test_experiments_plane.py::test_the_difference_of_fields_is_zero_for_the_truth",
        ("the difference's sign", "learned(x) - law.score(x)", "law.score(x) - learned(x)"),
    ),
    *of(
        "experiments/trained.py",
        "experiments/test_experiments_plane.py::test_a_learned_score_is_read_in_the_units_of_the_data "
        "experiments/test_experiments_plane.py::test_what_was_trained_is_found_again_and_more_steps_go_on",
        ("the score in scaled units", ".double() / scale).to(x.dtype)", ".double()).to(x.dtype)"),
        ("rows that are not moved", "((x - mean) / scale)", "(x / scale)"),
        ("a run that was interrupted is not gone on with", "if not run.finished:", "if run.step == 0:"),
    ),
    *of(
        "experiments/outcome.py",
        "experiments/test_experiments_figures.py "
        "experiments/test_experiments_plane.py::test_unknown_names_and_folders_of_something_else_are_refused",
        ("pictures that are gone", "before == asked and all(", "before == asked or all("),
        ("another experiment's folder", "if before != asked:", "if before is None:"),
    ),
    *of(
        "experiments/demo.py",
        "experiments/test_experiments_figures.py",
        ("σ² for σ in the picture", "[x + sigma * z for", "[x + sigma**2 * z for"),
        ("the way back the other way", "in reversed(SHOWN[1:])]", "in SHOWN[1:]]"),
        (
            "held-out images that were trained on",
            '("held-out", run.dataset.held_out_rows)',
            '("held-out", run.dataset.train_rows)',
        ),
    ),
    *of(
        "report/blocks.py",
        "report/test_blocks.py",
        ("the lowest value is black", "grey = 1 - np.repeat", "grey = np.repeat"),
        (
            "tiles column by column",
            "(k // columns) * (height * factor + 4), (k % columns)",
            "(k % columns) * (height * factor + 4), (k // columns)",
        ),
        ("text that ends its script", '.replace("<", "\\\\u003c")', ""),
    ),
    *of(
        "report/panels.py",
        "report/test_blocks.py",
        ("the farthest row", ".double()).argmin(1)", ".double()).argmax(1)"),
        ("the nearest held-out row", "run.dataset.train_rows[:20_000]", "run.dataset.held_out_rows[:20_000]"),
        (
            "held-out rows were trained on",
            "info.shape[0] - info.held_out:,} {info.kind}",
            "info.shape[0]:,} {info.kind}",
        ),
        ("a running mean that starts at 0", "out.append(mean / total)", "out.append(mean)"),
        ("healthy if anything is", "healthy=all(f.healthy", "healthy=any(f.healthy"),
        ("no margin below", "low - 0.25 * (high - low), high", "low, high"),
    ),
    *of(
        "diagnostics/dimension.py",
        "diagnostics/test_diagnostics.py::test_the_mean_of_inverses_is_unbiased_where_the_density_is_flat "
        "diagnostics/test_diagnostics.py::test_dimension_of_normal_rows_is_that_of_their_space "
        "diagnostics/test_diagnostics.py::test_copies_do_not_hide_the_dimension",
        ("over k, not k - 1", "/ nearest[:, :-1]).log().mean(1)", "/ nearest[:, :-1]).log().sum(1) / neighbours"),
        ("copies are neighbours", "flat = torch.unique(flat, dim=0)", "flat = flat.clone()"),
        ("the error of the inverse for its own", "error / mean**2", "error"),
    ),
    *of(
        "diagnostics/rows.py",
        "diagnostics/test_diagnostics.py::test_tail_share_of_a_normal_law_and_of_one_number_far_out "
        "diagnostics/test_diagnostics.py::test_atoms_and_their_grid",
        ("one row in a hundred", "FARTHEST = 1e-3", "FARTHEST = 1e-2"),
        ("values for rows", "counts[counts > 1].sum()", "(counts > 1).sum()"),
    ),
    *of(
        "diagnostics/samples.py",
        "diagnostics/test_diagnostics.py::test_mode_weights_are_equal_or_off_by_the_factor "
        "diagnostics/test_diagnostics.py::test_a_mode_without_data_is_off_by_the_binomial_tail_of_all_modes "
        "diagnostics/test_diagnostics.py::test_copied_rows_are_seen_and_others_at_the_rate_of_chance "
        "diagnostics/test_diagnostics.py::test_disagreement_is_per_coordinate "
        "diagnostics/test_diagnostics.py::test_signal_to_noise_of_a_normal_law",
        ("a degree of freedom more", "int(seen.sum()) - 1", "int(seen.sum())"),
        ("the factor on the wrong side", "odds / factor / (1 + odds / factor)", "odds * factor / (1 + odds * factor)"),
        ("more than were seen, not as many", "binom.sf(a - 1, both", "binom.sf(a, both"),
        ("the ratio's square", "first <= ratio * second", "first <= ratio**2 * second"),
        ("the length for a coordinate", ".mean(1).sqrt()", ".sum(1).sqrt()"),
        ("drift over noise without its ½", "/ (2 * math.prod(", "/ (math.prod("),
    ),
    *of(
        "diagnostics/schedules.py",
        "diagnostics/test_diagnostics.py::test_prior_gap_of_normal_data_is_the_divergence_of_two_normal_laws "
        "diagnostics/test_diagnostics.py::test_overlap_is_a_half_at_the_ratio_the_schedules_take "
        "diagnostics/test_diagnostics.py::test_ripple_is_the_height_of_a_blurred_lattice "
        "diagnostics/test_diagnostics.py::test_neighbour_scale_of_a_grid "
        "diagnostics/test_diagnostics.py::test_log_widths_integrate_the_flow_of_information",
        ("no normal constant", " - d * math.log(2 * math.pi) / 2", ""),
        ("the radius grows by √D", "math.sqrt(2 * dimension) * (ratio - 1)", "math.sqrt(dimension) * (ratio - 1)"),
        ("the length of the noise for its deviation", ".item() / math.sqrt(kept[0].numel())", ".item()"),
        ("a wave half as damped", "math.exp(-2 * math.pi**2", "math.exp(-(math.pi**2)"),
        ("the trapezoid twice", "gaps[-1:]]) / 2", "gaps[-1:]])"),
    ),
    *of(
        "diagnostics/scores.py",
        "diagnostics/test_diagnostics.py::test_the_bounds_hold_for_the_exact_score_and_are_met_by_a_normal_law "
        "diagnostics/test_diagnostics.py::"
        "test_a_score_of_half_the_length_falls_short_by_the_squared_difference_of_the_roots "
        "diagnostics/test_diagnostics.py::test_a_correction_finds_a_factor_and_nothing_on_the_exact_score "
        "diagnostics/test_diagnostics.py::test_looking_up_is_the_score_of_the_blurred_rows "
        "diagnostics/test_diagnostics.py::test_parts_of_a_jacobian_are_those_of_the_matrix",
        ("the loss of the opposite score", "(self.sigma * self.s + self.z)", "(self.sigma * self.s - self.z)"),
        ("the trace is not squared", "frame.trace(level) ** 2 /", "frame.trace(level) /"),
        ("the shortfall is not squared", "max(0.0, below, above) ** 2", "max(0.0, below, above)"),
        ("the correction replaces the score", "(1 + self.gain) * level.s", "self.gain * level.s"),
        ("looked up in a narrower law", "/ (2 * level.sigma**2), dim=1)", "/ level.sigma**2, dim=1)"),
        ("the divergence's h⁴", "spread / width**4", "spread / width**2"),
        ("half the shift", "+ 2 * same)", "+ same)"),
        ("the symmetric part for the other", "(forth - back).square()", "(forth + back).square()"),
    ),
    *of(
        "doctor/finding.py",
        "doctor/test_doctor.py::test_the_level_of_a_check_and_what_is_harmful",
        ("each check at the level of all", "LEVEL = FALSE_ALARMS / len(PART)", "LEVEL = FALSE_ALARMS"),
        ("nats for bits", "0.01 * math.log(2) * dimension", "0.01 * dimension"),
    ),
    *of(
        "doctor/levels.py",
        "doctor/test_doctor.py::test_a_changed_score_is_found",
        ("Stein's identity with the other sign", "(square + trace).mean()", "(square - trace).mean()"),
        ("a rival's loss the other way", "[level.loss - loss for", "[loss - level.loss for"),
        ("a field may turn as much as it likes", "share <= ROTATION", "share >= ROTATION"),
    ),
    *of(
        "doctor/levels.py",
        "doctor/test_doctor.py::test_a_loss_that_one_tenth_of_the_levels_holds_is_found "
        "doctor/test_doctor.py::test_the_loss_of_paired_noise_is_not_shared_out",
        ("the levels from the largest down", "order = levels.argsort()", "order = (-levels).argsort()"),
        ("levels and losses of different draws", "    generator.set_state(state)\n", ""),
        ("a tenth may hold all of the loss", "bool(shares[top] <= HALF)", "bool(shares[top] <= 1)"),
        ("paired noise shared out", "if run.recipe.antithetic:", "if False:"),
    ),
    *of(
        "doctor/drawing.py",
        "doctor/test_doctor.py::test_a_solver_with_too_few_steps_is_found "
        "doctor/test_doctor.py::test_the_exact_score_raises_nothing "
        "doctor/test_doctor.py::test_a_missing_mode_is_found "
        "doctor/test_doctor.py::test_a_missing_mode_is_found_where_the_rows_are_sorted",
        ("twice as fine is as fine", "steps=2 * steps).options()", "steps=steps).options()"),
        ("any disagreement will do", "median <= MOVED,", "median <= 10 * MOVED,"),
        (
            "the finer samples against others",
            "s.x[:n].numpy()) for s in (drawn, finer)",
            "s.x[:n].numpy()) for s in (drawn, drawn)",
        ),
        ("any weight of a mode will do", "found.p_off >= LEVEL,", "found.p_off >= 0,"),
        ("modes of the first rows", "real[evenly(len(real), 5000)]", "real[:500]"),
        ("weights of modes counted among themselves", "for rows in (x, real)]", "for rows in (real, real)]"),
    ),
    *of(
        "doctor/patient.py",
        "doctor/test_doctor.py::test_the_command_that_trains_anew_gives_the_recipe_back",
        ("a flag with a value", "*([] if value is True else [str(value)])", "str(value)"),
    ),
    *of(
        "doctor/rows.py",
        "doctor/test_doctor.py::test_faulty_data_are_found_and_the_command_mends_them "
        "doctor/test_doctor.py::test_a_rare_class_and_rows_that_are_not_held_out_are_found",
        ("a fifth of copies", "COPIES = 0.01", "COPIES = 0.2"),
        ("only classes that are rare", "relative >= RARE", "relative <= RARE"),
        (
            "a training row among themselves",
            "rows_among(held, np.asarray(data.x[data.train_rows]))",
            "rows_among(held, held)",
        ),
    ),
    *of(
        "doctor/schedule.py",
        "doctor/test_doctor.py::test_a_schedule_that_does_not_fit_is_found",
        ("levels may lie as far apart as they like", "ratio <= most * (1 + 1e-9)", "ratio > most * (1 + 1e-9)"),
        ("noise wider than the neighbours' distance", "sigma <= scale", "sigma > scale"),
    ),
]
