// Between the contract's messages and the domain's plain values.
import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { ComputeDtype, QuantType } from "#gen/nibble/common/v1/common_pb.ts";
import {
  type ChatMessage,
  type Constraint,
  FinishReason,
  type GenerateResponseSchema,
  Role,
  type SamplingParams,
  type Tool,
} from "#gen/nibble/inference/v1/generation_pb.ts";
import {
  type LoadedAdapterSchema,
  type LoadModelRequest,
  type ModelSchema,
  Residency,
} from "#gen/nibble/inference/v1/inference_pb.ts";
import type { ScoreInput, ScoreSchema } from "#gen/nibble/inference/v1/scoring_pb.ts";
import type { ChatMessage as PlainMessage, ToolDefinition } from "#packages/data";
import { type ConstraintForm, defaultQuant, type MemoryReport, type QuantOptions } from "#packages/engine";
import { NibbleError } from "#packages/errors";
import { checkId } from "#packages/rpc";
import type { ServedAdapter } from "./adapters.ts";
import type { AnswerEnd, AnswerRequest } from "./answer.ts";
import type { NumberedEvent } from "./answers.ts";
import type { LoadedModel, ModelSettings } from "./model.ts";
import type { ContinuationScore, ScoreText } from "./score.ts";

const quantTypes = { nf4: QuantType.NF4, fp4: QuantType.FP4, int4: QuantType.INT4 } as const;
const quantNames = new Map<QuantType, QuantOptions["type"]>([
  [QuantType.NF4, "nf4"],
  [QuantType.FP4, "fp4"],
  [QuantType.INT4, "int4"],
]);
const dtypes = { float32: ComputeDtype.FLOAT32, bfloat16: ComputeDtype.BFLOAT16 } as const;
const roles = new Map<Role, string>([
  [Role.SYSTEM, "system"],
  [Role.USER, "user"],
  [Role.ASSISTANT, "assistant"],
  [Role.TOOL, "tool"],
]);
const reasons = {
  eos: FinishReason.EOS,
  length: FinishReason.LENGTH,
  stop: FinishReason.STOP,
  toolCalls: FinishReason.TOOL_CALLS,
} as const;
const maxNewTokensDefault = 256;

export function modelSettings(
  request: LoadModelRequest,
  defaults: Pick<ModelSettings, "threads" | "device">,
): ModelSettings {
  const { quantization, bits } = request;
  if (quantization && bits === 16) {
    const message = "quantization: expected none with bits 16";
    throw new NibbleError(message, { code: "INVALID_ARGUMENT", op: "load_model", details: { field: "quantization" } });
  }
  const quant = quantization && {
    type: quantNames.get(quantization.type) ?? defaultQuant.type,
    blockSize: quantization.blockSize || defaultQuant.blockSize,
    doubleQuant: quantization.doubleQuant,
  };
  return {
    id: checkId(request.modelId || "base", "model_id", "load_model"),
    modelDir: request.modelDir,
    bits: quant ? 4 : (bits as 4 | 16 | undefined),
    quant: quant ?? defaultQuant,
    dtype: request.computeDtype === ComputeDtype.BFLOAT16 ? "bfloat16" : "float32",
    threads: request.threads ?? defaults.threads,
    device: defaults.device,
  };
}

function encodeMemory({ current, peak, peakTotal }: MemoryReport) {
  return {
    bytesByKind: exact(current),
    bytesTotal: BigInt(Object.values(current).reduce((sum, bytes) => sum + bytes, 0)),
    bytesPeak: BigInt(peakTotal),
    bytesPeakByKind: exact(peak),
  };
}

function exact(byKind: Record<string, number>): Record<string, bigint> {
  return Object.fromEntries(Object.entries(byKind).map(([kind, bytes]) => [kind, BigInt(bytes)]));
}

export async function encodeModel(model: LoadedModel): Promise<MessageInitShape<typeof ModelSchema>> {
  const { settings, engineModel, digest, contextLength, tokenizer, loadMs } = model;
  const { architecture, quant, parameters, vocabSize } = engineModel.info;
  return {
    name: `models/${settings.id}`,
    modelDir: settings.modelDir,
    architecture,
    digest,
    quantization: quant ? { ...quant, type: quantTypes[quant.type] } : { type: QuantType.UNSPECIFIED },
    parameters: BigInt(parameters),
    contextLength,
    vocabSize,
    computeDtype: dtypes[settings.dtype],
    memory: encodeMemory(await model.memory()),
    loadTime: timestampFromMs(loadMs),
    hasChatTemplate: (tokenizer?.chatTemplate ?? null) !== null,
  };
}

export function encodeAdapter({
  id,
  engineId,
  source,
  info,
  pinned,
  users,
  loadMs,
  lastUseMs,
}: ServedAdapter): MessageInitShape<typeof LoadedAdapterSchema> {
  return {
    name: `loadedAdapters/${id}`,
    adapterDir: source.version === "" ? source.dir : "",
    adapterVersion: source.version,
    baseDigest: info.baseDigest ?? "",
    rank: info.rank,
    scaling: info.scaling,
    targetModules: [...info.targetModules],
    bytes: BigInt(info.bytes),
    loadTime: timestampFromMs(loadMs),
    residency: engineId === null ? Residency.DISK : Residency.HOST,
    pinned,
    requestsRunning: users,
    ...(lastUseMs === null ? {} : { lastUseTime: timestampFromMs(lastUseMs) }),
    contentDigest: `sha256:${source.content}`,
  };
}

function jsonObject(text: string, field: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (thrown) {
    const reason = thrown instanceof Error ? thrown.message : String(thrown);
    throw new NibbleError(`${field}: expected JSON: ${reason}`, { code: "INVALID_ARGUMENT", op: "chat" });
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new NibbleError(`${field}: expected a JSON object, got ${text}`, { code: "INVALID_ARGUMENT", op: "chat" });
}

/** Messages in the form that chat templates know. */
export function decodeMessages(messages: readonly ChatMessage[]): PlainMessage[] {
  return messages.map(({ role, content, toolCalls, toolCallId, name }, i) => ({
    role: roles.get(role) ?? "user",
    content,
    ...(toolCalls.length === 0
      ? {}
      : {
          tool_calls: toolCalls.map(({ id, name: tool, arguments: text }, k) => {
            const args = jsonObject(text || "{}", `messages[${i}].tool_calls[${k}].arguments`);
            return { id, type: "function" as const, function: { name: tool, arguments: args } };
          }),
        }),
    ...(toolCallId === "" ? {} : { tool_call_id: toolCallId }),
    ...(name === "" ? {} : { name }),
  }));
}

const noParameters = '{"type":"object","properties":{}}';

/** Tools in the form that chat templates know. */
export function decodeTools(tools: readonly Tool[]): ToolDefinition[] {
  return tools.map(({ name, description, parameters }, i) => ({
    type: "function",
    function: { name, description, parameters: jsonObject(parameters || noParameters, `tools[${i}].parameters`) },
  }));
}

function decodeConstraint(constraint: Constraint | undefined): ConstraintForm | null {
  const { form } = constraint ?? { form: { case: undefined } };
  if (form.case === "jsonSchema") return { jsonSchema: form.value };
  if (form.case === "regex") return { regex: form.value };
  return form.case === "json" ? { json: true } : null;
}

/** The contract's defaults: greedy, all tokens, 256 of them, one answer. */
export function decodeSampling(
  params: SamplingParams | undefined,
): Omit<AnswerRequest, "adapterId" | "prompt" | "wantLogits" | "wantLogprobs" | "caller"> & { n: number } {
  return {
    n: params?.n ?? 1,
    maxNewTokens: params?.maxNewTokens ?? maxNewTokensDefault,
    sampling: {
      temperature: params?.temperature ?? 0,
      topK: params?.topK ?? 0,
      topP: params?.topP ?? 1,
      minP: params?.minP ?? 0,
      repetitionPenalty: params?.repetitionPenalty ?? 1,
      seed: params?.seed ?? 0,
    },
    frequencyPenalty: params?.frequencyPenalty ?? 0,
    presencePenalty: params?.presencePenalty ?? 0,
    topLogprobs: params?.topLogprobs ?? 0,
    lookupTokens: params?.promptLookupTokens ?? 0,
    constraint: decodeConstraint(params?.constraint),
    stops: params?.stop ?? [],
    ignoreEos: params?.ignoreEos ?? false,
  };
}

const rate = (count: number, seconds: number) => (seconds > 0 ? count / seconds : 0);

function encodeEnd({ reason, text, tokens, timing, logits, toolCalls }: AnswerEnd) {
  const { promptTokens, cachedTokens, prefillSeconds, decodeSeconds, queueSeconds } = timing;
  return {
    finishReason: reasons[reason],
    text,
    toolCalls: [...toolCalls],
    logits: logits ? Array.from(logits) : [],
    usage: {
      promptTokens,
      completionTokens: tokens,
      prefillSeconds,
      prefillTokensPerSecond: rate(promptTokens - cachedTokens, prefillSeconds),
      decodeSeconds,
      // The engine may have computed a token more than a stop text let through.
      decodeTokensPerSecond: rate(Math.max(0, timing.newTokens - 1), decodeSeconds),
      queueSeconds,
      cachedPromptTokens: cachedTokens,
    },
  };
}

/** Generate, Chat and ResumeAnswer answer with the same messages. */
export function encodeEvent({ index, sequence, event }: NumberedEvent): {
  index: number;
  sequence: bigint;
  event: NonNullable<MessageInitShape<typeof GenerateResponseSchema>["event"]>;
} {
  const place = { index, sequence: BigInt(sequence) };
  if (event.kind === "end") return { ...place, event: { case: "completion", value: encodeEnd(event.end) } };
  const { id, text, logprob, top } = event.token;
  const known = Number.isNaN(logprob) ? {} : { logprob };
  return { ...place, event: { case: "token", value: { id, text, ...known, top: [...top] } } };
}

export function decodeScoreText(text: ScoreInput | undefined): ScoreText | null {
  const { input } = text ?? { input: { case: undefined } };
  if (input.case === "inputIds") return { ids: input.value.ids };
  return input.case === "text" ? { text: input.value } : null;
}

/** `textOf` gives a token alone as text. */
export function encodeScore(
  { tokens, ...whole }: ContinuationScore,
  textOf: (id: number) => string,
): MessageInitShape<typeof ScoreSchema> {
  return {
    ...whole,
    tokens: tokens.map(({ top, ...token }) => ({
      ...token,
      top: top.map((one) => ({ ...one, text: textOf(one.id) })),
    })),
  };
}
