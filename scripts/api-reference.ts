// `npm run docs:api`: writes docs/api.md from the comments and rules in proto/. The test test/api-reference.test.ts
// fails when the page is stale.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { AnyDesc, DescEnum, DescField, DescFile, DescMessage, DescMethod, DescService } from "@bufbuild/protobuf";
import { createFileRegistry, fromBinary, getOption, hasOption, ScalarType } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { getComments } from "@bufbuild/protoplugin";
import { field as fieldRules } from "@bufbuild/protovalidate/gen/buf/validate/validate_pb.js";
import { image } from "./proto.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const imageFile = join(root, "build/proto/image.binpb");

/** The leading comment as one paragraph a blank line; "" without one. Directives for buf are left out. */
function commentOf(desc: Exclude<AnyDesc, DescFile>): string {
  const text = getComments(desc).leading ?? "";
  const lines = text.split("\n").map((line) => line.trim());
  return lines
    .filter((line) => !line.startsWith("buf:lint:"))
    .join("\n")
    .trim();
}

function inCell(text: string): string {
  return text.replaceAll(/\s*\n\s*/g, " ").replaceAll("|", "\\|");
}

function anchorOf(typeName: string): string {
  return typeName.toLowerCase().replaceAll(".", "-");
}

function shortName(typeName: string): string {
  return typeName.replace(/^nibble\.[a-z]+\.v1\./, "");
}

function typeLink(desc: DescMessage | DescEnum): string {
  return desc.file.proto.package.startsWith("nibble.")
    ? `[${shortName(desc.typeName)}](#${anchorOf(desc.typeName)})`
    : `\`${desc.typeName}\``;
}

function scalarName(scalar: ScalarType): string {
  return (ScalarType[scalar] ?? "").toLowerCase();
}

function typeOf(field: DescField): string {
  switch (field.fieldKind) {
    case "scalar":
      return scalarName(field.scalar);
    case "enum":
      return typeLink(field.enum);
    case "message":
      return typeLink(field.message);
    case "list":
      return `repeated ${field.listKind === "scalar" ? scalarName(field.scalar) : typeLink(field.listKind === "enum" ? field.enum : field.message)}`;
    case "map":
      return `map<${scalarName(field.mapKey)}, ${field.mapKind === "scalar" ? scalarName(field.scalar) : typeLink(field.mapKind === "enum" ? field.enum : field.message)}>`;
  }
}

/** "min_len 1, max_bytes 4096" for the rules of a type; nested rules (items, keys, values) in parentheses. */
function rulesText(rules: Record<string, unknown>): string {
  const parts: string[] = [];
  for (const [key, value] of Object.entries(rules)) {
    if (key.startsWith("$") || value === undefined || value === false || (Array.isArray(value) && value.length === 0))
      continue;
    const name = key.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    if (value !== null && typeof value === "object" && "case" in value) {
      const { case: kind, value: inner } = value as { case?: string; value?: unknown };
      if (kind === undefined) continue;
      if (key === "type") parts.push(rulesText(inner as Record<string, unknown>));
      else parts.push(`${kind.replaceAll(/[A-Z]/g, (l) => `_${l.toLowerCase()}`)} ${String(inner)}`);
    } else if (Array.isArray(value)) parts.push(`${name} ${value.join(" ")}`);
    else if (value !== null && typeof value === "object")
      parts.push(`${name} (${rulesText(value as Record<string, unknown>)})`);
    else if (value === true) parts.push(name);
    else if (value !== 0 && value !== 0n && value !== "") parts.push(`${name} ${String(value)}`);
  }
  return parts.filter(Boolean).join(", ");
}

function limitsOf(field: DescField): string {
  const parts: string[] = [];
  if (field.oneof) parts.push(`one of \`${field.oneof.name}\``);
  if (hasOption(field, fieldRules))
    parts.push(rulesText(getOption(field, fieldRules) as unknown as Record<string, unknown>));
  return parts.filter(Boolean).join("; ");
}

function messageSection(desc: DescMessage): string[] {
  const head = [`#### <a id="${anchorOf(desc.typeName)}"></a>${shortName(desc.typeName)}`, "", commentOf(desc), ""];
  if (desc.fields.length === 0) return [...head, "No fields.", ""];
  const rows = desc.fields.map(
    (field) =>
      `| ${field.number} | \`${field.name}\` | ${typeOf(field)} | ${inCell(limitsOf(field))} | ${inCell(commentOf(field))} |`,
  );
  return [...head, "| # | field | type | limits | meaning |", "|---|---|---|---|---|", ...rows, ""];
}

function enumSection(desc: DescEnum): string[] {
  const rows = desc.values.map((value) => `| ${value.number} | \`${value.name}\` | ${inCell(commentOf(value))} |`);
  return [
    `#### <a id="${anchorOf(desc.typeName)}"></a>${shortName(desc.typeName)}`,
    "",
    commentOf(desc),
    "",
    "| # | value | meaning |",
    "|---|---|---|",
    ...rows,
    "",
  ];
}

function methodSection(method: DescMethod): string[] {
  const isIn = method.methodKind === "client_streaming" || method.methodKind === "bidi_streaming";
  const isOut = method.methodKind === "server_streaming" || method.methodKind === "bidi_streaming";
  const input = `${isIn ? "stream " : ""}${typeLink(method.input)}`;
  const output = `${isOut ? "stream " : ""}${typeLink(method.output)}`;
  return [`#### ${method.name}`, "", `${input} → ${output}`, "", commentOf(method), ""];
}

function serviceSection(service: DescService): string[] {
  return [`### ${service.typeName}`, "", commentOf(service), "", ...service.methods.flatMap(methodSection)];
}

function packageSection(name: string, files: DescFile[]): string[] {
  const messages = files.flatMap((file) => file.messages);
  const enums = files.flatMap((file) => file.enums);
  return [
    `## ${name}`,
    "",
    ...files.flatMap((file) => file.services).flatMap(serviceSection),
    ...(messages.length > 0 ? [`### Messages of ${name}`, "", ...messages.flatMap(messageSection)] : []),
    ...(enums.length > 0 ? [`### Enums of ${name}`, "", ...enums.flatMap(enumSection)] : []),
  ];
}

const opening = `# API reference

Made from \`proto/\` by \`npm run docs:api\`; do not edit.

Every service also answers \`grpc.health.v1.Health\` and \`grpc.reflection.v1.ServerReflection\` (and v1alpha), so that
\`grpcurl -plaintext HOST:PORT list\` works. The quantizer answers \`google.longrunning.Operations\` as well,
and inference the Open Inference Protocol (\`inference.GRPCInferenceService\`, KServe V2): \`text_input\` BYTES [N] in,
\`text_output\` BYTES [N] out, the model's name the base's id or an adapter's (\`proto/inference/grpc_predict_v2.proto\`).

- **Errors** are \`google.rpc.Status\` in the trailer \`grpc-status-details-bin\`, with \`ErrorInfo\` (domain \`nibble\`, a
  reason, and facts as metadata), \`BadRequest\` for fields that break their limits, \`QuotaFailure\` for a named limit,
  and \`RequestInfo\` with the request id. Any call can also end with CANCELLED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED (too many calls at a time),
  UNAVAILABLE (the server is draining) or INTERNAL.
- **Limits** are protovalidate rules; a message that breaks one is refused with INVALID_ARGUMENT before it is looked at.
  A limit on an \`optional\` field holds when the field is set.
- **Metadata**: \`x-request-id\` names the call in logs and errors; \`x-nibble-caller\` says for whom a gateway asks
  (inference serves callers alike); \`traceparent\` carries the trace.
- Messages are at most 16 MiB.
`;

/** The whole page. */
export function apiReference(): string {
  image(imageFile);
  const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(imageFile)));
  const packages = new Map<string, DescFile[]>();
  for (const file of registry.files) {
    const name = file.proto.package;
    if (!name.startsWith("nibble.")) continue;
    packages.set(name, [...(packages.get(name) ?? []), file]);
  }
  const names = [...packages.keys()].sort();
  const sections = names.flatMap((name) => packageSection(name, packages.get(name) ?? []));
  return `${[opening, ...sections]
    .join("\n")
    .replaceAll(/\n{3,}/g, "\n\n")
    .trimEnd()}\n`;
}

if (import.meta.main) {
  const page = join(root, "docs/api.md");
  mkdirSync(dirname(page), { recursive: true });
  writeFileSync(page, apiReference());
}
