#!/usr/bin/env node
// count.js - how many rows of each table are in the streams on standard input
//
// usage: npm install @msgpack/msgpack; pgextract | node count.js; pgdecode --slot mig --until now | node count.js
//
// A stream needs nothing of ours to be read: it is a sequence of msgpack arrays [kind, checksum, body], and each body is a msgpack
// value again. The kinds are those of format/SPEC.md. (A careful reader checks the CRC-32C of kind and body, which this one leaves out.)
const { decode, decodeMultiStream } = require('@msgpack/msgpack')

async function main() {
  const names = {}, parts = {}, rows = {}
  let pieces = [], ended = true
  const count = (relation, n) => { rows[names[relation]] = (rows[names[relation]] || 0) + n }
  for await (const [kind, , body] of decodeMultiStream(process.stdin)) {
    pieces.push(body)
    if (kind === 3) continue // a long record: the rest follows
    const r = decode(Buffer.concat(pieces))
    pieces = []
    if (kind === 1) ended = false // header
    if (kind === 2) ended = true
    if (kind === 4) names[r.id] = `${r.schema}.${r.name}`
    if (kind === 6) parts[r.part] = r.relation
    if (kind === 7) count(parts[r[0]], r[1]) // copy-data says how many rows it has
    if (kind >= 13 && kind <= 15) count(r[0], 1) // insert, update, delete
  }
  for (const name of Object.keys(rows).sort()) console.log(`${name}\t${rows[name]}`)
  if (!ended) throw new Error('the stream has no end: it was cut')
}

main().catch((e) => { console.error(`count.js: ${e.message}`); process.exitCode = 65 })
