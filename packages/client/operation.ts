// Waits for a long-running operation (google.longrunning) and unpacks what it ends with.
import { setTimeout as delay } from "node:timers/promises";
import type { DescMessage, MessageShape } from "@bufbuild/protobuf";
import type { Any } from "@bufbuild/protobuf/wkt";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import type { Operation } from "#gen/google/longrunning/operations_pb.ts";
import { NibbleError } from "#packages/errors";
import { fromStatus } from "#packages/rpc";
import type { OperationsClient } from "./connect.ts";
import { callOptions, Retries, type RetryOptions } from "./retry.ts";

const op = "wait_for_operation";

export interface OperationOptions<M extends DescMessage> extends RetryOptions {
  /** The type of the operation's metadata; needed for onMetadata. */
  metadata?: M;
  /** Called with the metadata after every look at the operation. */
  onMetadata?: (metadata: MessageShape<M>) => void;
  /** Time between two looks, in milliseconds. Default: 250. */
  intervalMs?: number;
}

/** The response of an operation once it is done; throws the error it ended with. An aborted signal stops the waiting. */
export async function waitForOperation<R extends DescMessage, M extends DescMessage = DescMessage>(
  operations: OperationsClient,
  operation: Operation,
  response: R,
  options: OperationOptions<M> = {},
): Promise<MessageShape<R>> {
  const { signal, intervalMs = 250 } = options;
  const retries = new Retries(options);
  for (let current = operation; ; ) {
    if (options.metadata && current.metadata) options.onMetadata?.(unpack(current.metadata, options.metadata));
    if (current.result.case === "error") throw fromStatus(current.result.value, op);
    if (current.result.case === "response") return unpack(current.result.value, response);
    try {
      await delay(intervalMs, undefined, callOptions(signal));
      current = await operations.getOperation({ name: operation.name }, callOptions(signal));
      retries.progress();
    } catch (thrown) {
      await retries.again(NibbleError.from(thrown, op));
    }
  }
}

function unpack<M extends DescMessage>(any: Any, schema: M): MessageShape<M> {
  const message = anyUnpack(any, schema);
  if (message) return message;
  const text = `expected ${schema.typeName}, got ${any.typeUrl || "nothing"}`;
  throw new NibbleError(text, { code: "INTERNAL", op });
}
