// SPDX-License-Identifier: Apache-2.0
//
// Policies: which packets of isolated pods pass. A flow is judged, not a packet: by who opened it, to which port of
// whom, and by the rules of this moment, both ways. What is remembered of it is who opened it.
#pragma once

#include "related.h"
#include "rules.h"

enum { CLIENT_PORT = 32768 }; // clients' ports begin here (ip_local_port_range), servers' are below

// Is an end of the packet isolated? Nothing more is looked up where none is. To: the pod that it goes to, or the node,
// or NULL; a pod is never isolated from itself.
static __always_inline _Bool is_isolated(const struct __sk_buff *ctx, const struct packet *p, const struct config *cfg,
					 const struct endpoint *to)
{
	if (to && to->ifindex && to->ifindex == ctx->ifindex)
		return 0;
	return cfg->policies && (p->isolated || (to && to->egress | to->ingress));
}

// Finds a flow by the tuple of whoever opened it. Settled: it has its place, and is not about to become another's.
static __always_inline struct judged *find_judged(const struct tuple *t, _Bool *settled)
{
	struct judged *f = bpf_map_lookup_elem(&judged_flows, t);

	*settled = f != NULL;
	return f ? f : bpf_map_lookup_elem(&judged_opening, t);
}

// A ping and its answers are a flow by their number, which stands where the port of whoever asks would be. Other ICMP
// packets have none.
static __always_inline void set_ping(struct __sk_buff *ctx, struct packet *p, struct judging *j)
{
	struct fragment ports = {.sport = p->sport, .dport = p->dport}; // of a fragment: find_ports has been asked
	_Bool v4 = p->proto == IPPROTO_ICMP;

	if (p->fragment)
		p->icmp_type = bpf_ntohs(ports.dport) >> 8;
	else if (load_ports(ctx, p, &ports) < 0)
		ports.sport = 0;
	j->packet.tuple.sport = p->icmp_type == (v4 ? ICMP_ECHO : ICMP6_ECHO) ? ports.sport : 0;
	j->packet.tuple.dport = 0;
	if (p->icmp_type == (v4 ? ICMP_ECHO_REPLY : ICMP6_ECHO_REPLY)) {
		j->packet.tuple.dport = ports.sport;
		j->begins = 0;
	}
	if (is_icmp_error(p))
		j->begins = 0;
}

// Of TCP, a SYN begins a flow. What a Service's backend answers is judged as it came: it has been translated since.
static __always_inline void set_packet(struct __sk_buff *ctx, struct packet *p, struct work *w)
{
	struct judging *j = &w->judging;
	__u8 tcp = tcp_flags(ctx, p);

	if (p->served && w->forward.flags & FLOW_REPLY)
		j->packet.tuple = w->tuple;
	else
		set_tuple(&j->packet.tuple, p);
	j->certain = (tcp & (TCP_SYN | TCP_ACK)) == TCP_SYN;
	j->begins = p->proto != IPPROTO_TCP || j->certain;
	j->flags = tcp & (TCP_FIN | TCP_RST) ? JUDGED_CLOSING : 0;
	j->way = UNTRACKED;
	if (is_icmp(p))
		set_ping(ctx, p, j);
}

enum { MOMENT = 8 }; // a shift of jiffies: 0.25 to 2.5 s. They are a load, a clock of ns is a call.

static __always_inline struct recent *recent_of(__be32 src, __be32 dst, __u32 ports)
{
	__u32 index, hash = (src ^ ports) * 0x9e3779b1 ^ dst;

	hash = (hash ^ hash >> 16) * 0x85ebca6b; // what differs most may be the upper bits
	index = hash >> 20;			 // of 4096
	return bpf_map_lookup_elem(&recents, &index);
}

// What the node itself opened is never asked about again, nor what has no ports: it would take the place of others.
static __always_inline void set_recent(const struct judging *j)
{
	const struct tuple *t = &j->packet.tuple;
	struct recent *r = recent_of(t->src.word[3], t->dst.word[3], t->sport << 16 | t->dport);

	if (r && t->dport && !(j->flags & JUDGED_OWN))
		*r = j->packet;
}

// Are the rulesets of the packet's source still those that it was judged by?
static __always_inline _Bool has_same_sender(const struct packet *p, const struct recent *r)
{
	struct work *w = p->isolated ? get_work() : NULL;

	return w ? r->egress[0] == w->judging.packet.egress[0] && r->ingress[0] == w->judging.packet.ingress[0]
		 : !p->isolated && r->egress[0] == RULESET_OPEN && r->ingress[0] == RULESET_OPEN;
}

// Did the same packet pass a moment ago, by what is in force now?
static __always_inline _Bool is_recent(const struct packet *p, const struct endpoint *to)
{
	__u32 zero = 0, *e;
	struct recent *r;

	if (!p->ports || p->fragment || p->served || p->tcp & (TCP_FIN | TCP_SYN | TCP_RST))
		return 0;
	r = recent_of(p->src.word[3], p->dst.word[3], p->sport << 16 | p->dport);
	if (!r)
		return 0;
	e = bpf_map_lookup_elem(&epoch, &zero);
	if (!e || r->epoch != *e || r->moment != (__u32)(bpf_jiffies64() >> MOMENT))
		return 0;
	return r->tuple.sport == p->sport && r->tuple.dport == p->dport && r->tuple.proto == p->proto &&
	       addr_equal(&r->tuple.src, &p->src) && addr_equal(&r->tuple.dst, &p->dst) && has_same_sender(p, r) &&
	       r->egress[1] == (to ? to->egress : RULESET_OPEN) && r->ingress[1] == (to ? to->ingress : RULESET_OPEN);
}

// What the ruleset of one of the packet's ends says of the flow of a tuple.
static __always_inline int ask_end(struct packet *p, struct judging *j, struct tuple *t, _Bool end, _Bool ingress)
{
	j->denial.ruleset = ingress ? j->packet.ingress[end] : j->packet.egress[end];
	j->denial.decision = ask_ruleset(j->denial.ruleset, ingress ? &t->src : &t->dst, t->proto, bpf_ntohs(t->dport));
	j->denial.ifindex = j->ifindex[end];
	j->denial.ingress = ingress;
	return j->denial.decision & DECISION_ALLOW ? GO_ON : deny(p);
}

// Judges the flow of the work's packet. Answer: the packet's destination opened it.
__noinline int judge_flow(struct packet *p, __u32 answer)
{
	struct work *w = get_work();
	struct judging *j;
	int rc;

	if (!p || !w)
		return -DROP_INGRESS_DENIED;
	j = &w->judging;
	if (answer) {
		rc = ask_end(p, j, &j->reverse, 1, 0);
		return rc == GO_ON ? ask_end(p, j, &j->reverse, 0, 1) : rc;
	}
	rc = ask_end(p, j, &j->packet.tuple, 0, 0);
	return rc == GO_ON ? ask_end(p, j, &j->packet.tuple, 1, 1) : rc;
}

// Remembers who opened a flow that passes. F: what is known of it, NULL: nothing. One that has had an answer, and a
// packet after it, is no flood's: it gets a place of its own, as long as there is one.
static __always_inline int remember_judged(struct judging *j, struct judged *f, _Bool settled, _Bool answer)
{
	struct tuple *t = answer ? &j->reverse : &j->packet.tuple;
	struct judged now = {.used = now_ticks(), .flags = j->flags | (answer ? JUDGED_ANSWERED : 0)};

	if (f && !j->certain)
		now.flags |= f->flags;
	if (f && !settled && !answer && now.flags & JUDGED_ANSWERED) {
		if (bpf_map_update_elem(&judged_flows, t, &now, BPF_ANY) == 0) {
			bpf_map_delete_elem(&judged_opening, t);
			set_recent(j);
			return GO_ON;
		}
		count(DROP_JUDGED_FULL, 0);
	}
	if (settled)
		set_recent(j);
	if (f && now.used == f->used && now.flags == f->flags)
		return GO_ON;
	if (settled)
		*f = now;
	else if (bpf_map_update_elem(&judged_opening, t, &now, BPF_ANY) < 0)
		return -DROP_JUDGED_FULL;
	return GO_ON;
}

// Which way the work's packet goes, and whether its flow may.
__noinline int judge_packet(struct packet *p)
{
	_Bool settled = 0, answer, begins;
	__u32 zero = 0, *e = bpf_map_lookup_elem(&epoch, &zero);
	struct work *w = get_work();
	struct judged *f = NULL;
	struct judging *j;
	int rc;

	if (!p || !w)
		return -DROP_INGRESS_DENIED;
	j = &w->judging;
	answer = j->way == BACKWARD;
	begins = j->begins || j->way != UNTRACKED;
	j->packet.epoch = e ? *e : 0;
	j->packet.moment = bpf_jiffies64() >> MOMENT;
	turn_round(&j->reverse, &j->packet.tuple);
	if (answer || (j->way == UNTRACKED && !j->certain))
		f = find_judged(&j->reverse, &settled);
	if (f)
		answer = 1;
	else if (!answer)
		f = find_judged(&j->packet.tuple, &settled);
	if (f && answer && f->flags & JUDGED_OWN) // by an address that is not known for the node's
		j->home = 1;
	if (!f && !begins && (j->late[0] || j->late[1]) && p->proto == IPPROTO_TCP) {
		answer = bpf_ntohs(j->reverse.dport) < CLIENT_PORT && bpf_ntohs(j->reverse.sport) >= CLIENT_PORT;
		begins = 1;
	}
	rc = j->home && (answer || !begins) ? GO_ON : judge_flow(p, answer);
	if (rc != GO_ON || (!f && !begins))
		return rc;
	return remember_judged(j, f, settled, answer);
}

// Is an ICMP error about a packet of a flow that is known?
__noinline int is_related(struct __sk_buff *ctx, struct packet *p)
{
	struct work *w = get_work();
	struct quote q = {};
	struct judging *j;
	_Bool settled;

	if (!p || !w)
		return 0;
	j = &w->judging;
	if (p->served) {
		j->reverse = w->tuple;
		if (!(w->forward.flags & FLOW_REPLY)) // to a backend: the flow is known by its address
			set_answer(&j->reverse, &w->reply, w->tuple.proto);
	} else {
		if (read_quote(ctx, p, &q) < 0 &&
		    ((q.proto != IPPROTO_ICMP && q.proto != IPPROTO_ICMPV6) || // of a ping, by its number
		     bpf_skb_load_bytes(ctx, q.l4 + 4, &q.sport, sizeof(q.sport)) < 0))
			return 0;
		if (!addr_equal(&q.src, &p->dst))
			return 0;
		set_quoted(&j->reverse, &q, 0);
	}
	turn_round(&j->packet.tuple, &j->reverse);
	return find_judged(&j->packet.tuple, &settled) || find_judged(&j->reverse, &settled);
}

// May this packet of an isolated pod pass? To: the pod that it goes to, or the node, NULL: neither. To its own node a
// pod may always answer; what it begins there, its rules say.
__noinline int judge(struct __sk_buff *ctx, struct packet *p, struct endpoint *to)
{
	struct work *w;

	if (p && is_recent(p, to))
		return GO_ON;
	w = get_work();
	if (!p || !w)
		return -DROP_INGRESS_DENIED;
	w->judging.home = to && !to->ifindex;
	if (w->judging.home && w->judging.packet.egress[0] <= RULESET_CLOSED)
		return GO_ON;
	if (p->fragment && find_ports(ctx, p) < 0)
		return -DROP_FRAGMENT;
	if (is_icmp_error(p) && is_related(ctx, p))
		return GO_ON;
	set_packet(ctx, p, w);
	if (!p->isolated)
		set_end(&w->judging, 0, NULL);
	set_end(&w->judging, 1, to);
	return judge_packet(p);
}
