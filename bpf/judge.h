// SPDX-License-Identifier: Apache-2.0
//
// Policies: which packets of isolated pods pass. A flow is judged, not a packet: by who opened it, to which port of
// whom, and by the rules of this moment, both ways. What is remembered of it is who opened it.
#pragma once

#include "related.h"
#include "rules.h"

enum { CLIENT_PORT = 32768 }; // clients' ports begin here (ip_local_port_range), servers' are below

// Is an end of the packet isolated? Nothing more is looked up where none is. To: the pod that it goes to, or the node,
// or NULL; a pod is never isolated from its node, nor from itself.
static __always_inline _Bool is_isolated(const struct __sk_buff *ctx, const struct packet *p, const struct config *cfg,
					 const struct endpoint *to)
{
	if (to && (!to->ifindex || to->ifindex == ctx->ifindex))
		return 0;
	return cfg->policies && (p->isolated || (to && to->egress | to->ingress));
}

static __always_inline void turn_round(struct tuple *t, const struct tuple *of)
{
	t->src = of->dst;
	t->dst = of->src;
	t->sport = of->dport;
	t->dport = of->sport;
	t->proto = of->proto;
	__builtin_memset(t->unused, 0, sizeof(t->unused));
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
	turn_round(&j->reverse, &j->packet.tuple);
}

static __always_inline struct recent *recent_of(const struct tuple *t)
{
	__u32 hash = (t->src.word[3] * 0x9e3779b1 ^ t->dst.word[3] ^ t->sport << 16 ^ t->dport) * 0x85ebca6b;
	__u32 index = hash >> 20; // of 4096

	return bpf_map_lookup_elem(&recents, &index);
}

static __always_inline _Bool is_recent(const struct judging *j)
{
	const __u64 *a = (const __u64 *)recent_of(&j->packet.tuple), *b = (const __u64 *)&j->packet;
	__u64 differ = 0;

	if (!a || j->certain || j->flags)
		return 0;
#pragma unroll
	for (__u32 i = 0; i < sizeof(struct recent) / sizeof(*a); i++)
		differ |= a[i] ^ b[i];
	return !differ;
}

static __always_inline void set_recent(const struct judging *j)
{
	struct recent *r = recent_of(&j->packet.tuple);

	if (r && !j->certain && !j->flags)
		*r = j->packet;
}

// Judges the flow of the work's packet. Answer: the packet's destination opened it.
__noinline int judge_flow(struct packet *p, __u32 answer)
{
	struct work *w = get_work();
	__u64 egress, ingress;
	struct judging *j;
	struct tuple *t;

	if (!p || !w)
		return -DROP_INGRESS_DENIED;
	j = &w->judging;
	t = answer ? &j->reverse : &j->packet.tuple;
	egress = answer ? j->packet.egress[1] : j->packet.egress[0];
	ingress = answer ? j->packet.ingress[0] : j->packet.ingress[1];
	j->denial.decision = ask_ruleset(egress, &t->dst, t->proto, bpf_ntohs(t->dport));
	if (!(j->denial.decision & DECISION_ALLOW)) {
		j->denial.ruleset = egress;
		j->denial.ifindex = answer ? j->ifindex[1] : j->ifindex[0];
		j->denial.ingress = 0;
		return deny(p);
	}
	j->denial.decision = ask_ruleset(ingress, &t->src, t->proto, bpf_ntohs(t->dport));
	if (!(j->denial.decision & DECISION_ALLOW)) {
		j->denial.ruleset = ingress;
		j->denial.ifindex = answer ? j->ifindex[0] : j->ifindex[1];
		j->denial.ingress = 1;
		return deny(p);
	}
	return GO_ON;
}

static __always_inline void count_full(void)
{
	__u32 outcome = DROP_JUDGED_FULL;
	struct count *count = bpf_map_lookup_elem(&counts, &outcome);

	if (count)
		count->packets++;
}

// Remembers who opened a flow that passes. F: what is known of it, NULL: nothing. One that has had an answer, and a
// packet after it, is no flood's: it gets a place of its own, as long as there is one.
static __always_inline int remember_judged(struct judging *j, struct judged *f, _Bool settled, _Bool answer)
{
	struct tuple *t = answer ? &j->reverse : &j->packet.tuple;
	struct judged now = {.used = j->packet.ticks, .flags = j->flags | (answer ? JUDGED_ANSWERED : 0)};

	if (f && !j->certain)
		now.flags |= f->flags;
	if (f && !settled && !answer && now.flags & JUDGED_ANSWERED) {
		if (bpf_map_update_elem(&judged_flows, t, &now, BPF_ANY) == 0) {
			bpf_map_delete_elem(&judged_opening, t);
			set_recent(j);
			return GO_ON;
		}
		count_full();
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

// Does the packet answer, by its ports, where nobody has seen its flow begin?
static __always_inline _Bool is_guessed_answer(const struct tuple *t)
{
	return bpf_ntohs(t->sport) < CLIENT_PORT && bpf_ntohs(t->dport) >= CLIENT_PORT;
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
	j->packet.ticks = now_ticks();
	if (is_recent(j))
		return GO_ON;
	if (answer || (j->way == UNTRACKED && !j->certain))
		f = find_judged(&j->reverse, &settled);
	if (f)
		answer = 1;
	else if (!answer)
		f = find_judged(&j->packet.tuple, &settled);
	if (!f && !begins && (j->late[0] || j->late[1]) && p->proto == IPPROTO_TCP) {
		answer = is_guessed_answer(&j->packet.tuple);
		begins = 1;
	}
	rc = judge_flow(p, answer);
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

// May this packet of an isolated pod pass? To: the pod that it goes to, NULL: none of this node.
__noinline int judge(struct __sk_buff *ctx, struct packet *p, struct endpoint *to)
{
	struct work *w = get_work();

	if (!p || !w)
		return -DROP_INGRESS_DENIED;
	if (find_ports(ctx, p) < 0)
		return -DROP_FRAGMENT;
	if (is_icmp_error(p) && is_related(ctx, p))
		return GO_ON;
	set_packet(ctx, p, w);
	if (!p->isolated)
		set_end(&w->judging, 0, NULL);
	set_end(&w->judging, 1, to);
	return judge_packet(p);
}

// Are a packet's addresses such that others may put other ones there? Then it is judged where it leaves.
static __always_inline _Bool is_judged_later(const struct config *cfg, const struct packet *p,
					     const struct endpoint *to, const struct remote *r)
{
	return cfg->ask_conntrack && !p->served && !to && !(r && !r->host) &&
	       (p->proto == IPPROTO_TCP || p->proto == IPPROTO_UDP);
}

// The kernel's word on the work's packet, by the tuple of its answers: that is what they come with. The packet's tuple
// becomes the one between whoever sent it and whoever gets it in truth.
__noinline int find_way(struct __sk_buff *ctx)
{
	struct work *w = get_work();
	struct tuple began;
	struct judging *j;
	_Bool translated;
	enum way answers;

	if (!w)
		return UNTRACKED;
	j = &w->judging;
	began = j->packet.tuple;
	answers = find_tracked(ctx, &j->reverse, &began, &translated);
	if (answers == BACKWARD)
		j->packet.tuple = began;
	else if (answers == FORWARD)
		turn_round(&j->packet.tuple, &began);
	turn_round(&j->reverse, &j->packet.tuple);
	return answers == UNTRACKED ? UNTRACKED : answers == FORWARD ? BACKWARD : FORWARD;
}

static __always_inline _Bool is_isolated_pod(const struct endpoint *ep)
{
	return ep && ep->ifindex && ep->egress | ep->ingress;
}

// The same for what leaves the stack, where others may have translated it: judged by whoever sends it to whoever gets
// it in truth. To: the pod behind the link that it leaves by, NULL: none.
__noinline int judge_leaving(struct __sk_buff *ctx, struct packet *p, struct endpoint *to)
{
	struct work *w = get_work();
	struct endpoint *from;
	struct addr src;

	if (!p || !w)
		return -DROP_EGRESS_DENIED;
	src = p->src;
	from = bpf_map_lookup_elem(&endpoints, &src);
	if (from && from->ifindex && !is_isolated_pod(from) && !is_isolated_pod(to))
		return GO_ON;
	if (find_ports(ctx, p) < 0)
		return is_isolated_pod(from) || is_isolated_pod(to) ? -DROP_FRAGMENT : GO_ON;
	if (is_icmp_error(p) && (is_related(ctx, p) || is_translated(ctx, p)))
		return GO_ON;
	set_packet(ctx, p, w);
	if (p->ports)
		w->judging.way = find_way(ctx);
	src = w->judging.packet.tuple.src;
	from = bpf_map_lookup_elem(&endpoints, &src);
	if (!to) {
		src = w->judging.packet.tuple.dst;
		to = bpf_map_lookup_elem(&endpoints, &src);
	}
	if ((!is_isolated_pod(from) && !is_isolated_pod(to)) || (from && to && from->ifindex == to->ifindex))
		return GO_ON;
	set_end(&w->judging, 0, from);
	set_end(&w->judging, 1, to);
	return judge_packet(p);
}
