variable "project_id" {
  description = "Project that owns the network."
  type        = string
}

variable "name" {
  description = "Prefix of every name, such as strongroom-prod."
  type        = string
}

variable "region" {
  description = "Region of the subnet, the router and the NAT gateway."
  type        = string
}

variable "nodes_cidr" {
  description = "Addresses of the machines. /20 is room for 4092."
  type        = string

  validation {
    condition     = can(cidrhost(var.nodes_cidr, 0))
    error_message = "nodes_cidr must be a network such as 10.10.0.0/20."
  }
}

variable "pods_cidr" {
  description = "Addresses of the pods. Each machine takes a /24 of it, so a /14 is room for 1024 machines."
  type        = string

  validation {
    condition     = can(cidrhost(var.pods_cidr, 0))
    error_message = "pods_cidr must be a network such as 10.16.0.0/14."
  }
}

variable "services_cidr" {
  description = "Addresses of the services inside the cluster."
  type        = string

  validation {
    condition     = can(cidrhost(var.services_cidr, 0))
    error_message = "services_cidr must be a network such as 10.20.0.0/20."
  }
}

variable "health_check_cidrs" {
  description = "Networks from which the load balancers of Google probe pods. They are fixed and published by Google."
  type        = list(string)
  default     = ["35.191.0.0/16", "130.211.0.0/22"]
}

variable "private_services_prefix_length" {
  description = "Size of the range that Cloud SQL and Memorystore take their private addresses from, in bits of the prefix."
  type        = number
  default     = 20

  validation {
    condition     = var.private_services_prefix_length >= 16 && var.private_services_prefix_length <= 24
    error_message = "private_services_prefix_length must be between 16 and 24."
  }
}
