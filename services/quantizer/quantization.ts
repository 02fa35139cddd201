// What a request means to the engine, and what the engine's figures mean to a client.
import { create } from "@bufbuild/protobuf";
import { ComputeDtype, QuantType } from "#gen/nibble/common/v1/common_pb.ts";
import {
  type QuantizeModelRequest,
  type QuantizeModelResponse,
  QuantizeModelResponseSchema,
} from "#gen/nibble/quantizer/v1/quantizer_pb.ts";
import {
  defaultQuant,
  Engine,
  type QuantizeModelOptions,
  type QuantizeProgress,
  type QuantizeReport,
  type QuantOptions,
} from "#packages/engine";
import { localFolder, type PullProgress } from "#packages/hub";

export type Quantize = (
  request: QuantizeModelRequest,
  report: Progress,
  signal: AbortSignal,
) => Promise<QuantizeModelResponse>;

/** A model named by its repository is pulled first. */
export interface Progress {
  pulled(progress: PullProgress): void;
  quantized(progress: QuantizeProgress): void;
}

/** As the engine calls its types. */
const typesByName = { nf4: QuantType.NF4, fp4: QuantType.FP4, int4: QuantType.INT4 } as const;
const namesByType = new Map<QuantType, QuantOptions["type"]>([
  [QuantType.NF4, "nf4"],
  [QuantType.FP4, "fp4"],
  [QuantType.INT4, "int4"],
]);

function quantOf(request: QuantizeModelRequest): QuantOptions {
  return {
    type: namesByType.get(request.quantType) ?? defaultQuant.type,
    blockSize: request.blockSize ?? defaultQuant.blockSize,
    doubleQuant: request.doubleQuant ?? defaultQuant.doubleQuant,
  };
}

const dtypesByType = new Map<ComputeDtype, "float32" | "bfloat16">([
  [ComputeDtype.FLOAT32, "float32"],
  [ComputeDtype.BFLOAT16, "bfloat16"],
]);

function optionsOf(request: QuantizeModelRequest): Omit<QuantizeModelOptions, "signal" | "onProgress"> {
  const { modelDir, outDir, skipModules, shardBytesMax, computeDtype } = request;
  const computeDType = dtypesByType.get(computeDtype);
  return {
    modelDir,
    outDir,
    quant: quantOf(request),
    skipModules,
    ...(computeDType === undefined ? {} : { computeDType }),
    ...(shardBytesMax === undefined ? {} : { shardBytesMax: Number(shardBytesMax) }),
  };
}

function responseOf(report: QuantizeReport, request: QuantizeModelRequest): QuantizeModelResponse {
  const { type, blockSize, doubleQuant } = quantOf(request);
  return create(QuantizeModelResponseSchema, {
    outDir: report.outDir,
    digest: report.digest,
    quantization: { type: typesByName[type], blockSize, doubleQuant },
    parameters: BigInt(report.parameters),
    parametersQuantized: BigInt(report.quantizedParameters),
    bitsPerParameter: report.bitsPerParameter,
    bytesRead: BigInt(report.bytesRead),
    bytesWritten: BigInt(report.bytesWritten),
    bytesPeak: BigInt(report.peakBytes),
    tensorsTotal: BigInt(report.tensors),
    tensorsQuantized: BigInt(report.quantizedTensors),
    seconds: report.seconds,
  });
}

/** Quantizes with an engine of its own for each run: one that died takes no later run with it. */
export function engineQuantizer(threadsDefault: number): Quantize {
  return async (request, progress, signal) => {
    const modelDir = await localFolder(request.modelDir, { signal, onProgress: (p) => progress.pulled(p) });
    const engine = new Engine({ threads: request.threads ?? threadsDefault });
    try {
      const report = await engine.quantize(
        { ...optionsOf(request), modelDir },
        { signal, onEvent: (p) => progress.quantized(p) },
      );
      return responseOf(report, request);
    } finally {
      await engine.close();
    }
  };
}
