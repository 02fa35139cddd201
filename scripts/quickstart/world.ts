// The closed world of the quickstart: every person, thing, place, animal and word that its corpus and its questions may use.
// The townspeople's facts are drawn once from a fixed seed, so that the corpus can tell them and the questions can ask for them.
import { Random } from "./random.ts";

const words = (text: string): string[] => text.trim().split(/\s+/);

/** People of the stories: a story decides what they own and where they go, so nothing about them is constant. */
export const names = words(`
  Mira Tom Ana Ben Lila Sam Nina Max Rosa Finn Ella Hugo Ida Jack Kira Leo Maya Noah Olga Paul Ruth Theo Uma Vera Will Zoe Abel Bella
  Carl Dina Emil Flora Gus Hana Igor Jana Karl Lena Milo Nora`);

export const colours = words("red blue green yellow white black brown grey pink purple orange golden silver");

export const things = words(`
  kite drum boat ball book lamp hat coat cup bell key coin ring chair basket bottle brush candle clock doll flag flute spoon
  ladder map mirror bucket pillow rope shoe stamp sword table tent torch umbrella violin wagon whistle scarf`);

export const places = words(`
  barn kitchen garden cellar attic school market harbour forest library mill tower bakery stable church park cave castle
  bridge well meadow workshop station museum`);

export const feelings = words("happy sad tired hungry proud angry calm curious brave shy");

export const animals = [
  { name: "cow", sound: "moos", food: "grass", home: "stable", young: "calf", legs: 4 },
  { name: "dog", sound: "barks", food: "meat", home: "kennel", young: "puppy", legs: 4 },
  { name: "cat", sound: "meows", food: "fish", home: "basket", young: "kitten", legs: 4 },
  { name: "sheep", sound: "bleats", food: "clover", home: "fold", young: "lamb", legs: 4 },
  { name: "horse", sound: "neighs", food: "oats", home: "stall", young: "foal", legs: 4 },
  { name: "pig", sound: "grunts", food: "roots", home: "sty", young: "piglet", legs: 4 },
  { name: "duck", sound: "quacks", food: "weeds", home: "pond", young: "duckling", legs: 2 },
  { name: "owl", sound: "hoots", food: "mice", home: "hollow", young: "owlet", legs: 2 },
  { name: "lion", sound: "roars", food: "deer", home: "plain", young: "cub", legs: 4 },
  { name: "frog", sound: "croaks", food: "flies", home: "marsh", young: "tadpole", legs: 4 },
  { name: "goose", sound: "honks", food: "barley", home: "lake", young: "gosling", legs: 2 },
  { name: "hen", sound: "clucks", food: "corn", home: "coop", young: "chick", legs: 2 },
  { name: "bee", sound: "buzzes", food: "nectar", home: "hive", young: "larva", legs: 6 },
  { name: "wolf", sound: "howls", food: "rabbits", home: "den", young: "pup", legs: 4 },
  { name: "mouse", sound: "squeaks", food: "cheese", home: "hole", young: "pup", legs: 4 },
  { name: "bear", sound: "growls", food: "honey", home: "lair", young: "cub", legs: 4 },
] as const;

export const opposites = [
  ["hot", "cold"],
  ["big", "small"],
  ["long", "short"],
  ["fast", "slow"],
  ["old", "young"],
  ["high", "low"],
  ["wet", "dry"],
  ["hard", "soft"],
  ["full", "empty"],
  ["rich", "poor"],
  ["loud", "quiet"],
  ["dark", "bright"],
  ["heavy", "light"],
  ["open", "closed"],
  ["early", "late"],
  ["near", "far"],
  ["thick", "thin"],
  ["clean", "dirty"],
  ["sweet", "sour"],
  ["strong", "weak"],
  ["wide", "narrow"],
  ["deep", "shallow"],
  ["first", "last"],
  ["left", "right"],
  ["up", "down"],
  ["day", "night"],
  ["in", "out"],
  ["over", "under"],
  ["good", "bad"],
  ["true", "false"],
  ["new", "worn"],
  ["sharp", "blunt"],
] as const;

export const plurals = [
  ["mouse", "mice"],
  ["goose", "geese"],
  ["foot", "feet"],
  ["tooth", "teeth"],
  ["child", "children"],
  ["man", "men"],
  ["woman", "women"],
  ["leaf", "leaves"],
  ["knife", "knives"],
  ["wolf", "wolves"],
  ["loaf", "loaves"],
  ["city", "cities"],
  ["berry", "berries"],
  ["baby", "babies"],
  ["box", "boxes"],
  ["fox", "foxes"],
  ["glass", "glasses"],
  ["brush", "brushes"],
  ["torch", "torches"],
  ["watch", "watches"],
  ["kite", "kites"],
  ["drum", "drums"],
  ["boat", "boats"],
  ["lamp", "lamps"],
  ["ring", "rings"],
  ["coin", "coins"],
] as const;

export const pasts = [
  ["go", "went"],
  ["see", "saw"],
  ["eat", "ate"],
  ["run", "ran"],
  ["give", "gave"],
  ["take", "took"],
  ["find", "found"],
  ["buy", "bought"],
  ["sing", "sang"],
  ["swim", "swam"],
  ["write", "wrote"],
  ["ride", "rode"],
  ["come", "came"],
  ["bring", "brought"],
  ["hold", "held"],
  ["sleep", "slept"],
  ["think", "thought"],
  ["fall", "fell"],
  ["lose", "lost"],
  ["make", "made"],
  ["sell", "sold"],
  ["catch", "caught"],
  ["walk", "walked"],
  ["open", "opened"],
  ["paint", "painted"],
  ["carry", "carried"],
] as const;

export const days = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday");
export const months = words("January February March April May June July August September October November December");
export const numbers =
  words(`zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
  seventeen eighteen nineteen twenty`);

/** Groups whose members a list may hold; `colours`, `animals` and so on are groups as well. */
export const groups = {
  fruit: words("apple pear plum cherry grape lemon peach melon fig banana"),
  vegetables: words("carrot onion potato bean leek cabbage pea beet pumpkin radish"),
  tools: words("hammer saw drill spade rake axe nail chisel shovel file"),
  trees: words("oak birch pine elm maple willow ash beech cedar poplar"),
  metals: words("iron copper tin gold lead zinc steel brass nickel bronze"),
  colours,
  things,
  animals: animals.map((a) => a.name),
} as const;

const jobs =
  words(`baker smith tailor miller painter teacher doctor farmer fisher carpenter weaver potter sailor singer gardener judge
  mason barber butcher cook driver guard hunter nurse porter printer shepherd tanner waiter writer
  actor artist barrister brewer builder butler captain clerk cobbler coach dentist draper dyer engraver ferryman florist glazier
  grocer hatter joiner lawyer locksmith mayor plumber poet ranger roofer saddler sculptor surveyor`);
const firstNames =
  words(`Agnes Basil Clara Dorian Edith Felix Greta Henry Irene Jonas Klara Lucas Marta Nelson Opal Peter Quinn Ralph
  Stella Tilda Ursula Victor Wanda Xavier Yvonne Zander Alma Boris Celia Dexter Amos Bertha Cedric Daphne Edgar Fanny Gilbert
  Hester Isaac Jessie Kurt Lydia Moritz Nadia Oscar Pippa Quentin Rhoda Silas Thora Ulric Viola Walter Xenia Yusuf Zelda Alfred
  Blanche Conrad Doris`);
const surnames = words("Vale Brook Stone Field Marsh Hill Wood Lake Frost Birch");
const streets = words("Mill River Market Church Garden Harbour Castle Station Meadow Tower");
const pets = words("parrot rabbit hamster turtle pony goat canary ferret lizard snake");
const foods = words("soup bread cheese rice pancakes noodles porridge salad pie stew dumplings omelettes");
const hobbies = words("chess fishing dancing knitting rowing reading singing hiking skating cooking painting climbing");

/** A townsperson: the corpus tells these facts over and over, and they never change. */
export interface Townsperson {
  name: string;
  job: string;
  street: string;
  pet: string;
  food: string;
  hobby: string;
  month: string;
}

/** The people of Bramblewick. Names and jobs are unique, so "who is the baker" has one answer. */
export const townspeople: readonly Townsperson[] = (() => {
  const random = new Random(1848);
  const shuffledJobs = random.shuffle(jobs);
  return firstNames.map((first, index) => ({
    name: `${first} ${random.pick(surnames)}`,
    job: shuffledJobs[index]!,
    street: `${random.pick(streets)} Street`,
    pet: random.pick(pets),
    food: random.pick(foods),
    hobby: random.pick(hobbies),
    month: random.pick(months),
  }));
})();

/** "a" or "an", as the next word asks. */
export const withArticle = (phrase: string): string => `${/^[aeiou]/.test(phrase) ? "an" : "a"} ${phrase}`;

export const capital = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);

/** "a, b and c" */
export const joined = (items: readonly string[]): string =>
  items.length < 2 ? items.join("") : `${items.slice(0, -1).join(", ")} and ${items.at(-1)}`;
