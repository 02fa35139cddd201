// Prints a protobuf-es file descriptor as .proto source, so that buf can import buf/validate/validate.proto: the
// npm package @bufbuild/protovalidate ships that file as a descriptor only. Options and comments are left out:
// buf needs names, numbers and types; the rules themselves are read at run time from the package's own descriptor.
import type { DescEnum, DescExtension, DescField, DescFile, DescMessage, DescOneof } from "@bufbuild/protobuf";
import { ScalarType } from "@bufbuild/protobuf";
import { Edition } from "@bufbuild/protobuf/wkt";

export function printProto(file: DescFile): string {
  const syntax = file.edition === Edition.EDITION_PROTO2 ? "proto2" : "proto3";
  const blocks = [
    `syntax = "${syntax}";\npackage ${file.proto.package};`,
    ...file.dependencies.map((dependency) => `import "${dependency.name}.proto";`),
    ...file.enums.map((one) => printEnum(one)),
    ...file.messages.map((one) => printMessage(one)),
    ...file.extensions.map((one) => `extend .${one.extendee.typeName} {\n${indent(printField(one))}\n}`),
  ];
  return `${blocks.join("\n")}\n`;
}

function indent(text: string): string {
  return text.replace(/^(?=.)/gm, "  ");
}

function block(head: string, lines: string[]): string {
  return `${head} {\n${indent(lines.join("\n"))}\n}`;
}

function printEnum(desc: DescEnum): string {
  const alias = desc.proto.options?.allowAlias ? ["option allow_alias = true;"] : [];
  return block(`enum ${desc.name}`, [...alias, ...desc.values.map((value) => `${value.name} = ${value.number};`)]);
}

function printMessage(desc: DescMessage): string {
  // The end of an extension range is exclusive in the descriptor and inclusive in the source.
  const ranges = desc.proto.extensionRange.map((range) => `extensions ${range.start} to ${range.end - 1};`);
  const nested = desc.nestedMessages.filter((message) => !message.proto.options?.mapEntry);
  return block(`message ${desc.name}`, [
    ...desc.nestedEnums.map((one) => printEnum(one)),
    ...nested.map((one) => printMessage(one)),
    ...ranges,
    ...desc.members.map((member) => (member.kind === "oneof" ? printOneof(member) : printField(member))),
  ]);
}

function printOneof(desc: DescOneof): string {
  return block(
    `oneof ${desc.name}`,
    desc.fields.map((field) => `${typeOf(field)} ${field.name} = ${field.number};`),
  );
}

function printField(desc: DescField | DescExtension): string {
  return `${labelOf(desc)}${typeOf(desc)} ${desc.name} = ${desc.number};`;
}

function labelOf(desc: DescField | DescExtension): string {
  if (desc.fieldKind === "map") return "";
  if (desc.fieldKind === "list") return "repeated ";
  const isProto2 = (desc.kind === "extension" ? desc.file : desc.parent.file).edition === Edition.EDITION_PROTO2;
  return isProto2 || desc.proto.proto3Optional ? "optional " : "";
}

function scalarName(scalar: ScalarType): string {
  return (ScalarType[scalar] ?? "").toLowerCase();
}

function typeOf(desc: DescField | DescExtension): string {
  switch (desc.fieldKind) {
    case "scalar":
      return scalarName(desc.scalar);
    case "enum":
      return `.${desc.enum.typeName}`;
    case "message":
      return `.${desc.message.typeName}`;
    case "list":
      if (desc.listKind === "scalar") return scalarName(desc.scalar);
      return `.${(desc.listKind === "enum" ? desc.enum : desc.message).typeName}`;
    case "map": {
      const value =
        desc.mapKind === "scalar"
          ? scalarName(desc.scalar)
          : `.${(desc.mapKind === "enum" ? desc.enum : desc.message).typeName}`;
      return `map<${scalarName(desc.mapKey)}, ${value}>`;
    }
  }
}
