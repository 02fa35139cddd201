// A training spec as the engine's recipe. What the rules in the protos cannot say is checked here, with the field that
// is wrong.
import { ComputeDtype, QuantType } from "#gen/nibble/common/v1/common_pb.ts";
import {
  GradientCheckpointing,
  Optimizer,
  Schedule,
  type TrainingSpec,
  TrainTurns,
} from "#gen/nibble/trainer/v1/spec_pb.ts";
import { parseRecipe, type TrainRecipe } from "#packages/data";
import { NibbleError } from "#packages/errors";
import { BadRequestError, checkId } from "#packages/rpc";

const op = "create_training_job";
const specPath = "training_job.spec";

const schedules = new Map<Schedule, TrainRecipe["schedule"]>([
  [Schedule.CONSTANT, "constant"],
  [Schedule.LINEAR, "linear"],
  [Schedule.COSINE, "cosine"],
]);
const optimizers = new Map<Optimizer, TrainRecipe["optimizer"]>([
  [Optimizer.ADAMW_32BIT, "adamw_32bit"],
  [Optimizer.ADAMW_8BIT, "adamw_8bit"],
  [Optimizer.PAGED_ADAMW_32BIT, "paged_adamw_32bit"],
  [Optimizer.PAGED_ADAMW_8BIT, "paged_adamw_8bit"],
]);
const quantTypes = new Map<QuantType, TrainRecipe["quantType"]>([
  [QuantType.NF4, "nf4"],
  [QuantType.FP4, "fp4"],
  [QuantType.INT4, "int4"],
]);
const dtypes = new Map<ComputeDtype, TrainRecipe["dtype"]>([
  [ComputeDtype.FLOAT32, "float32"],
  [ComputeDtype.BFLOAT16, "bfloat16"],
]);

const turns = new Map<TrainTurns, TrainRecipe["trainTurns"]>([
  [TrainTurns.ALL, "all"],
  [TrainTurns.LAST, "last"],
]);

/** The spec's name of a recipe's field. */
const specFields = {
  model: "model_dir",
  data: "data_file",
  datasetFormat: "dataset_format",
  out: "output_dir",
  initAdapter: "init_adapter_dir",
  full: "full_parameter",
  bits: "bits",
  quantType: "quant_type",
  blockSize: "block_size",
  doubleQuant: "double_quant",
  rank: "rank",
  alpha: "alpha",
  dropout: "dropout",
  rslora: "use_rslora",
  targets: "target_modules",
  optimizer: "optimizer",
  pagingDir: "paging_dir",
  lr: "learning_rate",
  beta1: "adam_beta1",
  beta2: "adam_beta2",
  eps: "adam_epsilon",
  weightDecay: "weight_decay",
  maxGradNorm: "max_grad_norm",
  steps: "steps",
  epochs: "epochs",
  saveEpochs: "save_epochs",
  batchSize: "batch_size",
  gradAccum: "grad_accum",
  schedule: "schedule",
  warmup: "warmup",
  seed: "seed",
  shuffle: "shuffle",
  maxLength: "max_length",
  trainOnSource: "train_on_source",
  trainTurns: "train_turns",
  packing: "packing",
  evalFraction: "eval_fraction",
  gradientCheckpointing: "checkpointing",
  dtype: "compute_dtype",
  adapterDtype: "adapter_dtype",
  threads: "threads",
  memoryLimit: "memory_limit_bytes",
} as const satisfies Record<keyof TrainRecipe, string>;

const checkpointings = new Map<GradientCheckpointing, TrainRecipe["gradientCheckpointing"]>([
  [GradientCheckpointing.NONE, "none"],
  [GradientCheckpointing.SELECTIVE, "selective"],
  [GradientCheckpointing.FULL, "full"],
  [GradientCheckpointing.OFFLOAD, "offload"],
]);

/** Undefined: the recipe's own default. */
function givenBy(spec: TrainingSpec): Record<keyof TrainRecipe, unknown> {
  return {
    model: spec.modelDir,
    data: spec.dataFile,
    datasetFormat: spec.datasetFormat || undefined,
    out: spec.outputDir,
    initAdapter: spec.initAdapterDir || undefined,
    full: spec.fullParameter,
    bits: spec.bits,
    quantType: quantTypes.get(spec.quantType),
    blockSize: spec.blockSize,
    doubleQuant: spec.doubleQuant,
    rank: spec.rank,
    alpha: spec.alpha,
    dropout: spec.dropout,
    rslora: spec.useRslora,
    targets: spec.targetModules.length > 0 ? spec.targetModules : undefined,
    optimizer: optimizers.get(spec.optimizer),
    pagingDir: spec.pagingDir || undefined,
    lr: spec.learningRate,
    beta1: spec.adamBeta1,
    beta2: spec.adamBeta2,
    eps: spec.adamEpsilon,
    weightDecay: spec.weightDecay,
    maxGradNorm: spec.maxGradNorm,
    steps: spec.steps === undefined ? undefined : Number(spec.steps),
    epochs: spec.epochs,
    saveEpochs: spec.saveEpochs,
    batchSize: spec.batchSize,
    gradAccum: spec.gradAccum,
    schedule: schedules.get(spec.schedule),
    warmup: spec.warmup,
    seed: spec.seed,
    shuffle: spec.shuffle,
    maxLength: spec.maxLength,
    trainOnSource: spec.trainOnSource,
    trainTurns: turns.get(spec.trainTurns),
    packing: spec.packing,
    evalFraction: spec.evalFraction,
    gradientCheckpointing: checkpointings.get(spec.checkpointing) ?? spec.gradientCheckpointing,
    dtype: dtypes.get(spec.computeDtype),
    adapterDtype: dtypes.get(spec.adapterDtype),
    threads: spec.threads,
    memoryLimit: spec.memoryLimitBytes === undefined ? undefined : Number(spec.memoryLimitBytes),
  };
}

function refuse(field: string, description: string): never {
  throw new BadRequestError(op, [{ field: `${specPath}.${field}`, description }]);
}

/** @throws INVALID_ARGUMENT with the field. */
export function recipeOf(spec: TrainingSpec, threadsDefault: number): TrainRecipe {
  const { registryTarget } = spec;
  if (registryTarget && spec.fullParameter)
    refuse("registry_target", "expected none with full_parameter: only adapters are registered");
  if (registryTarget) {
    const { adapterId, checkpointsAdapterId } = registryTarget;
    checkId(adapterId, `${specPath}.registry_target.adapter_id`, op);
    if (checkpointsAdapterId !== "")
      checkId(checkpointsAdapterId, `${specPath}.registry_target.checkpoints_adapter_id`, op);
    if (checkpointsAdapterId === adapterId)
      refuse(
        "registry_target.checkpoints_adapter_id",
        "expected another adapter than adapter_id: its newest version is the result",
      );
    for (const alias of registryTarget.aliases) checkId(alias, `${specPath}.registry_target.aliases`, op);
  }
  try {
    const recipe = parseRecipe({ flags: givenBy(spec) });
    return { ...recipe, threads: recipe.threads ?? threadsDefault };
  } catch (thrown) {
    const error = NibbleError.from(thrown, op);
    const key = error.details["key"];
    if (error.code !== "INVALID_ARGUMENT" || key === undefined || !(key in specFields)) throw error;
    return refuse(specFields[key as keyof TrainRecipe], error.message.replace("[recipe] flags: ", ""));
  }
}
