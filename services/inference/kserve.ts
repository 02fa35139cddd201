// The Open Inference Protocol (KServe V2) over the same base and adapters: prompts in, answers out. Its tensors are
// text_input BYTES [N] and text_output BYTES [N], as in Triton's and vLLM's text servers. Between its messages and the
// domain; no decisions about answers here.
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import {
  GRPCInferenceService,
  type InferParameter,
  type ModelInferRequest,
  type ModelInferResponseSchema,
} from "#gen/inference/grpc_predict_v2_pb.ts";
import { type SamplingParams, SamplingParamsSchema } from "#gen/nibble/inference/v1/generation_pb.ts";
import { NibbleError } from "#packages/errors";
import { type CallContext, type Handlers, type Implementation, implement, validate } from "#packages/rpc";
import nibble from "../../package.json" with { type: "json" };
import { type AnswerEnd, answer } from "./answer.ts";
import { callerOf, holding } from "./answer-handlers.ts";
import { decodeSampling } from "./encode.ts";
import type { Serving } from "./serving.ts";

const op = "model_infer";
const promptsMax = 256;

const inputs = [{ name: "text_input", datatype: "BYTES", shape: [-1n] }];
const outputs = [
  { name: "text_output", datatype: "BYTES", shape: [-1n] },
  { name: "finish_reason", datatype: "BYTES", shape: [-1n] },
  { name: "prompt_tokens", datatype: "INT32", shape: [-1n] },
  { name: "completion_tokens", datatype: "INT32", shape: [-1n] },
];

function expected(message: string): never {
  throw new NibbleError(message, { code: "INVALID_ARGUMENT", op });
}

/** Elements of BYTES: each with its length before it, 4 bytes, little-endian. */
function unpacked(raw: Uint8Array): Uint8Array[] {
  const view = new DataView(raw.buffer, raw.byteOffset, raw.byteLength);
  const elements: Uint8Array[] = [];
  for (let at = 0; at < raw.byteLength; ) {
    const size = at + 4 <= raw.byteLength ? view.getUint32(at, true) : Number.POSITIVE_INFINITY;
    if (at + 4 + size > raw.byteLength)
      expected(`raw_input_contents: expected whole elements, got a part at byte ${at}`);
    elements.push(raw.subarray(at + 4, at + 4 + size));
    at += 4 + size;
  }
  return elements;
}

function packed(elements: readonly Uint8Array[]): Uint8Array {
  return Buffer.concat(
    elements.flatMap((element) => {
      const size = Buffer.alloc(4);
      size.writeUInt32LE(element.length);
      return [size, element];
    }),
  );
}

function promptsOf({ inputs: given, rawInputContents }: ModelInferRequest): string[] {
  const [input, ...more] = given;
  if (!input || more.length > 0 || input.name !== "text_input" || input.datatype !== "BYTES") {
    const got = given.map(({ name, datatype }) => `${name} ${datatype}`).join(", ") || "none";
    return expected(`inputs: expected one, text_input BYTES, got ${got}`);
  }
  const raw = rawInputContents[0];
  const elements = raw === undefined ? (input.contents?.bytesContents ?? []) : unpacked(raw);
  const count = input.shape.reduce((product, n) => product * n, 1n);
  if (BigInt(elements.length) !== count || count < 1n || count > promptsMax) {
    expected(
      `text_input: expected 1 to ${promptsMax} elements as its shape says, got ${elements.length} for [${input.shape}]`,
    );
  }
  return elements.map((element) => new TextDecoder().decode(element));
}

/** The field of SamplingParams that a parameter sets. */
const fields: Readonly<Record<string, keyof MessageInitShape<typeof SamplingParamsSchema>>> = {
  max_tokens: "maxNewTokens",
  temperature: "temperature",
  top_k: "topK",
  top_p: "topP",
  min_p: "minP",
  seed: "seed",
  stop: "stop",
  repetition_penalty: "repetitionPenalty",
  frequency_penalty: "frequencyPenalty",
  presence_penalty: "presencePenalty",
  ignore_eos: "ignoreEos",
};

function samplingOf(parameters: Readonly<Record<string, InferParameter>>): SamplingParams {
  const given: Record<string, unknown> = {};
  for (const [name, { parameterChoice }] of Object.entries(parameters)) {
    const field = fields[name];
    if (field === undefined) expected(`parameters: expected one of ${Object.keys(fields).join(", ")}, got ${name}`);
    const { value } = parameterChoice;
    const want = field === "stop" ? "string" : field === "ignoreEos" ? "boolean" : "number";
    const plain = typeof value === "bigint" ? Number(value) : value;
    if (typeof plain !== want) expected(`parameters.${name}: expected a ${want}, got ${String(value)}`);
    given[field] = field === "stop" ? [plain] : plain;
  }
  for (const field of ["maxNewTokens", "topK", "seed"]) {
    const value = given[field];
    if (value !== undefined && !Number.isInteger(value))
      expected(`parameters: ${field}: expected a whole number, got ${value}`);
  }
  const params = create(SamplingParamsSchema, given);
  validate(SamplingParamsSchema, params, op);
  return params;
}

interface Whole {
  text: string;
  end: AnswerEnd;
}

type OutputTensor = NonNullable<MessageInitShape<typeof ModelInferResponseSchema>["outputs"]>[number];

function responseOf(request: ModelInferRequest, answers: readonly Whole[]) {
  const bytes = (texts: string[]) => texts.map((text) => Buffer.from(text));
  const values: Record<string, Uint8Array[] | number[]> = {
    text_output: bytes(answers.map(({ text }) => text)),
    finish_reason: bytes(answers.map(({ end }) => end.reason)),
    prompt_tokens: answers.map(({ end }) => end.timing.promptTokens),
    completion_tokens: answers.map(({ end }) => end.tokens),
  };
  const unknown = request.outputs.find(({ name }) => !(name in values));
  if (unknown) expected(`outputs: expected some of ${Object.keys(values).join(", ")}, got ${unknown.name}`);
  const wanted = outputs.filter(
    ({ name }) => request.outputs.length === 0 || request.outputs.some((o) => o.name === name),
  );
  const isRaw = request.rawInputContents.length > 0;
  const tensors = wanted.map(({ name, datatype }): OutputTensor => {
    const elements = values[name] ?? [];
    const contents =
      datatype === "BYTES" ? { bytesContents: elements as Uint8Array[] } : { intContents: elements as number[] };
    return { name, datatype, shape: [BigInt(answers.length)], ...(isRaw ? {} : { contents }) };
  });
  const raw = wanted.map(({ name, datatype }) => {
    const elements = values[name] ?? [];
    return datatype === "BYTES"
      ? packed(elements as Uint8Array[])
      : new Uint8Array(Int32Array.from(elements as number[]).buffer);
  });
  const { modelName, id } = request;
  return { modelName, id, outputs: tensors, rawOutputContents: isRaw ? raw : [] };
}

/** The id of the adapter that a model's name means; null for the base. @throws NOT_FOUND. */
function adapterOf({ served }: Serving, name: string): string | null {
  return name === served.model.settings.id ? null : served.adapters.get(name).id;
}

function isReady(serving: Serving, name: string): boolean {
  try {
    adapterOf(serving, name);
    return serving.isReady;
  } catch {
    return false;
  }
}

async function infer(serving: Serving, request: ModelInferRequest, context: CallContext) {
  const { served } = serving;
  const id = adapterOf(serving, request.modelName);
  const { n: _, ...sampling } = decodeSampling(samplingOf(request.parameters));
  const common = { ...sampling, wantLogits: false, wantLogprobs: false, caller: callerOf(context) };
  const { signal } = context;
  const one = async (text: string): Promise<Whole> => {
    const events = holding(served, id, signal, (adapterId, tokenizer) =>
      answer(served.model, { ...common, adapterId, tokenizer, prompt: { text } }, signal),
    );
    let whole = "";
    for await (const event of events) {
      if (event.kind === "token") whole += event.token.text;
      else return { text: whole + event.end.text, end: event.end };
    }
    throw new NibbleError("the answer: expected an end, got none", { code: "INTERNAL", op });
  };
  return responseOf(request, await Promise.all(promptsOf(request).map(one)));
}

export function kserveService(serving: Serving): Implementation {
  const handlers: Handlers<typeof GRPCInferenceService> = {
    serverLive: () => ({ live: true }),
    serverReady: () => ({ ready: serving.isReady }),
    modelReady: ({ name }) => ({ ready: isReady(serving, name) }),
    serverMetadata: () => ({ name: "nibble", version: nibble.version, extensions: [] }),
    modelMetadata: ({ name }) => {
      adapterOf(serving, name);
      return { name, versions: [], platform: "nibble", inputs, outputs };
    },
    modelInfer: (request, context) => infer(serving, request, context),
  };
  return implement(GRPCInferenceService, handlers);
}
