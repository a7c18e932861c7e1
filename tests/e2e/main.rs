//! The promises of the product, each kept by the real programs.

mod tidy; // who may know whom

mod scenario; // a stack in a folder of its own, and how a test ends

mod flows; // a reading reaches gold; a broken one reaches quarantine with its bytes

mod inputs; // every format that devices speak

mod sparkplug; // Eclipse Tahu's own client, from birth to death

mod direct; // devices without a gateway: each in silver once

mod quarantine; // what was refused is shown, and taken up again beside the running service

mod crash; // kill -9, in mid-run and at each named point

mod day; // a day at speed, late, twice and out of order, with kill -9: the same row for row

mod azurite; // an object store for lakes

mod peers; // several ingesters, one killed again and again

mod memory; // a backlog of garbage

mod offline; // hub away, disk full meanwhile, wrong key

mod provisioned; // a gateway that gets its hub from the provisioning service

mod remote; // the twin and direct methods, through the hub's own API

mod remote_ways; // certificates, 443, proxies, renewal, provisioned again; no log shows a secret

mod misfortune; // each fault that the hub can be scripted to have

mod storage; // a storage that fails, or is full

mod outage; // a storage that is away for minutes

mod backfill; // where a hub is begun, what files add, the lake as it was

mod restore; // the database copied back, deleted, unreadable; rows dropped; the hub's data gone

mod recordings; // recorded data: sentinels to quarantine, daily means as DuckDB computes them

mod readers; // other Delta readers read the tables

mod hubs; // several hubs in one process; faults over HTTP

mod tiers; // what a tier meters and refuses; memory of the hub

mod answers; // twins through a death between write and answer

mod provisioning; // devices that are told which of several hubs is theirs

mod sdks; // Microsoft's own SDKs against the local hub

mod faces; // configs with mistakes, exit codes, help

mod devices; // devices not made for the gateway's listener, and thousands of them

mod sensors; // on the gateway's own pins: read, in trouble, and back

mod gateway; // what `edge-agent check | status | outbox` print

mod looks; // the page and its plots, the journal, completion and man pages

mod packaging; // setup from the boot partition, the update that goes back, in folders that stand for machines

mod demo; // the demo with a recording, gone on with, interrupted
