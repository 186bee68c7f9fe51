// Loads licenses into Redis: node load.js FILE-OF-KEYS FINGERPRINT
import { readFileSync } from 'node:fs';
import { createHmac } from 'node:crypto';
import Redis from 'ioredis';

const [, , file, fingerprint] = process.argv;
const mac = (text) => createHmac('sha256', 'pepper').update(text).digest('hex');
const redis = new Redis({ port: Number(process.env.REDIS_PORT) });
const keys = readFileSync(file, 'utf8').split('\n');
const id = '01a1fc38-462e-700d-8a24-1b00a6834fc4';
for (let first = 0; first < keys.length; first += 1000) {
  const batch = redis.pipeline();
  for (const key of keys.slice(first, first + 1000)) {
    const facts = {
      id, productId: id, policyId: id, type: 'PERPETUAL', keyHint: `${key.split('-')[0]}-…-${key.slice(-4)}`,
      expiresAt: null, revokedAt: null, suspendedAt: null, features: [], maxDevices: 3, metadata: {},
      devices: { [mac(fingerprint)]: { id, activatedAt: '2026-11-20T18:02:11Z', lastSeenAt: '2026-11-21T03:40:00Z' } },
    };
    batch.set(`license:${mac(key)}`, JSON.stringify(facts));
  }
  await batch.exec();
}
redis.disconnect();
