// Tasker and what one would take instead of it, one after the other on this machine. README.md says what is compared.
//
//   node run.mjs [--seconds N] [--rounds N] [--only NAME,NAME]
//
// What is going on and the table go to stderr; the last line of stdout is one JSON object. It ends with 1 if a system
// could not be measured.

import { closeSync, existsSync, fdatasyncSync, openSync, readFileSync, writeSync } from 'node:fs';
import { constants, cpus, loadavg, totalmem } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import { findPostgres } from './postgres.mjs';
import { Stage, strikeAll } from './stage.mjs';

/** What Restate's SDK and graphile-worker need. */
const MIN_NODE = [22, 18];
const USAGE = 64;
const CLIENTS = [1, 16, 64, 256];
/** In the order in which they are measured. `remote`: the steps run in another process than what decides their order. */
const SYSTEMS = [
  { name: 'tasker', remote: true },
  { name: 'restate', remote: true, package: '@restatedev/restate-server' },
  { name: 'restate-run', remote: false, package: '@restatedev/restate-server' },
  { name: 'dbos', remote: false, package: '@dbos-inc/dbos-sdk' },
  { name: 'graphile-worker', remote: false, package: 'graphile-worker' },
];
/** Beside what is measured: to warm up, and to finish what is under way. */
const SPARE_SECONDS = 120;

const here = (relative) => fileURLToPath(new URL(relative, import.meta.url));
const say = (text) => console.error(text);

let ending = false;
for (const signal of ['SIGHUP', 'SIGINT', 'SIGTERM']) process.once(signal, () => end(128 + constants.signals[signal]));
try {
  await end(await main());
} catch (error) {
  // When we end because we were told to, what then fails is not news.
  if (!ending) say(`compare: ${error.message}`);
  await end(error.exitCode ?? 1);
}

/** Leaves nothing behind. Only the first call counts. */
async function end(code) {
  if (ending) return new Promise(() => {});
  ending = true;
  await strikeAll();
  process.exit(code);
}

async function main() {
  const options = parse();
  const report = { machine: machine(), seconds: options.seconds, rounds: options.rounds, systems: {}, ratios: {} };
  const results = new Map(options.systems.map((system) => [system, []]));
  for (let round = 1; round <= options.rounds; round += 1) {
    for (const [system, known] of results) {
      if (known.some((result) => result.problem)) continue;
      say(`round ${round} of ${options.rounds}: ${system.name}`);
      known.push(await attempt(system, options.seconds));
    }
  }
  for (const [{ name, remote }, known] of results) {
    report.systems[name] = { remote_steps: remote, ...(known.find((result) => result.problem) ?? mean(known)) };
  }
  const { tasker, ...others } = report.systems;
  for (const [name, other] of Object.entries(others)) report.ratios[name] = ratio(tasker, other);
  say(table(report));
  console.log(JSON.stringify(report));
  return Object.values(report.systems).some((system) => system.problem) ? 1 : 0;
}

/** What a system came to, or why it could not be measured. */
async function attempt(system, seconds) {
  let stage;
  try {
    stage = new Stage();
    return await measure(stage, system, seconds);
  } catch (error) {
    if (ending) throw error;
    say(`${system.name} could not be measured: ${error.message}`);
    return { problem: error.message };
  } finally {
    await stage?.strike();
  }
}

async function measure(stage, { name, package: module }, seconds) {
  const system = await import(`./systems/${name}.mjs`);
  if (system.measure) return system.measure(stage, seconds);
  const version = versionOf(module);
  const target = JSON.stringify(await system.prepare(stage));
  const args = ['--no-deprecation', here('load.mjs'), name, `${seconds}`, CLIENTS.join()];
  const limit = seconds * CLIENTS.length + SPARE_SECONDS;
  const options = { env: { COMPARE_TARGET: target }, signal: 'SIGKILL', seconds: limit };
  const printed = await stage.run(process.execPath, args, options);
  return { version, clients: JSON.parse(printed.trimEnd().split('\n').at(-1)) };
}

function versionOf(module) {
  const file = here(join('node_modules', module, 'package.json'));
  if (!existsSync(file)) throw new Error(`${module} is not installed; run \`make compare\`, which runs npm ci`);
  return JSON.parse(readFileSync(file, 'utf8')).version;
}

/** Numbers become their mean, down to the leaves; what is not a number is the same in all. */
function mean(results) {
  const [first] = results;
  if (typeof first === 'number') return rounded(results.reduce((sum, n) => sum + n, 0) / results.length);
  if (first === null || typeof first !== 'object') return first;
  return Object.fromEntries(Object.keys(first).map((key) => [key, mean(results.map((result) => result[key]))]));
}

/** Tasker's numbers in terms of another's. */
function ratio(tasker, other) {
  if (!tasker?.clients || !other.clients) return null;
  const of = (a, b) => Object.fromEntries(Object.keys(b).map((key) => [key, rounded(a[key] / b[key])]));
  return Object.fromEntries(CLIENTS.map((clients) => [clients, of(tasker.clients[clients], other.clients[clients])]));
}

function rounded(number) {
  return Number(number.toPrecision(4));
}

function table({ systems, ratios }) {
  const rows = [['', 'at once', 'workflows/s', 'steps/s', 'p50 ms', 'p99 ms', 'Tasker / it']];
  for (const [name, { version, clients, problem }] of Object.entries(systems)) {
    if (problem) rows.push([name, 'not measured']);
    for (const [n, of] of Object.entries(clients ?? {})) {
      const times = ratios[name]?.[n]?.workflows_per_second;
      const numbers = [of.workflows_per_second.toFixed(0), of.steps_per_second.toFixed(0), of.p50_ms, of.p99_ms];
      rows.push([n === '1' ? `${name} ${version}` : '', n, ...numbers, times ? `${times.toFixed(2)} x` : '']);
    }
  }
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => `${row[column] ?? ''}`.length)));
  const cell = (value, column) => (column ? `${value}`.padStart(widths[column]) : `${value}`.padEnd(widths[0]));
  return `\n${rows.map((row) => row.map(cell).join('  ').trimEnd()).join('\n')}\n`;
}

/** What the figures depend on. */
function machine() {
  return {
    cpu: cpus()[0].model,
    cores: cpus().length,
    memory_gib: rounded(totalmem() / 2 ** 30),
    fdatasync_us: rounded(fdatasyncMicros()),
    // Of others, before anything began: it should be near zero.
    load: rounded(loadavg()[0]),
    node: process.versions.node,
    postgres: findPostgres().version,
  };
}

/** The median of writing a page of 8 KiB over an old one and syncing it: what a commit pays. */
function fdatasyncMicros() {
  const [pages, page] = [256, Buffer.alloc(8192, 0x5a)];
  const stage = new Stage();
  const file = openSync(join(stage.dir, 'sync'), 'w');
  for (let n = 0; n < pages; n += 1) writeSync(file, page, 0, page.length, n * page.length);
  fdatasyncSync(file);
  const times = Array.from({ length: pages }, (_, n) => {
    const began = performance.now();
    writeSync(file, page, 0, page.length, n * page.length);
    fdatasyncSync(file);
    return (performance.now() - began) * 1e3;
  });
  closeSync(file);
  stage.strike();
  return times.sort((a, b) => a - b)[pages / 2];
}

function parse() {
  const refuse = (message) => Object.assign(new Error(message), { exitCode: USAGE });
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major < MIN_NODE[0] || (major === MIN_NODE[0] && minor < MIN_NODE[1])) {
    const least = MIN_NODE.join('.');
    throw refuse(`this is Node.js ${major}.${minor}; run \`make compare\`, which brings its own, or install ${least} or newer`);
  }
  const string = { type: 'string' };
  let given;
  try {
    given = parseArgs({ options: { seconds: string, rounds: string, only: string } }).values;
  } catch (error) {
    throw refuse(error.message);
  }
  const number = (name, value, least, most) => {
    if (!(value >= least && value <= most)) throw refuse(`--${name} is a number from ${least} to ${most}`);
    return value;
  };
  const names = given.only?.split(',') ?? SYSTEMS.map(({ name }) => name);
  const unknown = names.find((name) => !SYSTEMS.some((system) => system.name === name));
  if (unknown !== undefined) throw refuse(`--only names \`${unknown}\`; there are ${SYSTEMS.map((s) => s.name).join(', ')}`);
  return {
    seconds: number('seconds', Number(given.seconds ?? 6), 1, 200),
    rounds: Math.trunc(number('rounds', Number(given.rounds ?? 1), 1, 20)),
    systems: SYSTEMS.filter(({ name }) => names.includes(name)),
  };
}
